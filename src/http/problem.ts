import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { Problem, type ProblemCode, problems } from '../errors.ts'
import { isDamage } from '../store/damage.ts'
import { warnBrowsers } from './headers.ts'

/** Makes every error an answer of RFC 9457: those of the hub, those of Fastify, and those nobody thought of. */
export function answerProblems(app: FastifyInstance, failure: () => string | null, maxBodySize: number): void {
  const addresses: { method: string; pattern: RegExp }[] = []
  app.addHook('onRoute', ({ method, url }) => {
    if (url.includes('*')) return
    const pattern = new RegExp(`^${url.replaceAll('.', '\\.').replace(/:\w+/g, '[^/]+')}/?$`)
    for (const one of [method].flat()) addresses.push({ method: one, pattern })
  })
  app.setErrorHandler((error: FastifyError | Problem, request, reply) =>
    sendProblem(request, reply, asProblem(error, request, failure(), maxBodySize)),
  )
  app.setNotFoundHandler((request, reply) => {
    const [path = ''] = request.url.split('?')
    const methods = addresses.filter(({ pattern }) => pattern.test(path)).map(({ method }) => method)
    const detail = `there is nothing at ${request.method} ${path}`
    if (methods.length === 0) return sendProblem(request, reply, new Problem('not-found', detail, seeDocs))
    const allowed = [...new Set(methods)].join(', ')
    // RFC 9110 §15.5.6
    reply.header('allow', allowed)
    return sendProblem(request, reply, new Problem('method-not-allowed', detail, `here is ${allowed}`))
  })
}

const seeDocs = 'GET /docs lists all addresses'

/** Answers a request whose address cannot be read, so that it leads to no route and its hooks. */
export function answerUnroutable(error: FastifyError, request: FastifyRequest, reply: FastifyReply): void {
  warnBrowsers(reply)
  sendProblem(request, reply, new Problem('invalid-request', error.message, seeDocs))
}

function asProblem(
  error: FastifyError | Problem,
  request: FastifyRequest,
  failure: string | null,
  maxBodySize: number,
): Problem {
  if (error instanceof Problem) return error
  if (error.validation) return new Problem('invalid-request', wordsOf(error))
  if (error.code === 'FST_ERR_CTP_BODY_TOO_LARGE') {
    return new Problem('too-large', `the body is larger than ${maxBodySize / 1024} KiB`, 'send it in several requests')
  }
  if (error.code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE') {
    const detail = `the body is called ${request.headers['content-type'] ?? 'nothing'}`
    return new Problem('unsupported-media-type', detail, 'send JSON, with "content-type: application/json"')
  }
  if (error.statusCode !== undefined && error.statusCode >= 400 && error.statusCode < 500) {
    return new Problem('invalid-request', error.message)
  }
  if (isDamage(error)) {
    request.log.error({ err: error }, 'a part of the database is damaged')
    return new Problem('damaged', error.message, 'restore a backup: telemetry-hub restore FILE')
  }
  if (failure !== null) return new Problem('storage-unavailable', `the database cannot be read at present: ${failure}`)
  request.log.error({ err: error }, 'a request has failed')
  return new Problem('internal-error', 'the hub has failed to answer; its log says why')
}

/** What a schema found wrong, for a person. */
function wordsOf({ validation = [], validationContext, message }: FastifyError): string {
  const [found] = validation
  if (!found) return message
  const { keyword, instancePath, params } = found
  const path = instancePath.slice(1).replaceAll('/', '.')
  const named = (name: unknown) => `"${path === '' ? '' : `${path}.`}${name}"`
  if (keyword === 'required') return `${named(params.missingProperty)} is missing`
  if (keyword === 'additionalProperties') return `${named(params.additionalProperty)} is not known here`
  const subject = path === '' ? `the ${validationContext ?? 'request'}` : `"${path}"`
  if (keyword === 'type') return `${subject} must be ${typeWords[String(params.type)] ?? params.type}`
  if (keyword === 'minimum') return `${subject} must be at least ${params.limit}`
  if (keyword === 'maximum') return `${subject} must be at most ${params.limit}`
  return `${subject} ${found.message}`
}

const typeWords: Record<string, string> = {
  integer: 'a whole number',
  number: 'a number',
  string: 'a text',
  boolean: 'true or false',
  object: 'a JSON object',
  array: 'a list',
}

function sendProblem(request: FastifyRequest, reply: FastifyReply, problem: Problem): FastifyReply {
  const { status, title } = problems[problem.code]
  if (status === 503) reply.header('retry-after', '5')
  if (status === 429) reply.header('retry-after', String(problem.extra.retryAfter ?? 1))
  // RFC 6750 §3
  if (status === 401) reply.header('www-authenticate', 'Bearer realm="telemetry-hub"')
  return reply
    .code(status)
    .header('content-type', 'application/problem+json')
    .send(
      // As bytes: to a text Fastify would add a charset, which JSON does not have. RFC 8259 §11
      Buffer.from(
        JSON.stringify({
          type: problemType(problem.code),
          title,
          status,
          detail: problem.message,
          ...(problem.hint === undefined ? {} : { hint: problem.hint }),
          instance: request.url,
          ...problem.extra,
        }),
      ),
    )
}

/** The catalogue as a table of Markdown, for the documentation. */
export function listProblems(): string {
  const rows = Object.entries(problems).map(
    ([code, { status, title }]) => `| ${status} | \`${problemType(code as ProblemCode)}\` | ${title} |`,
  )
  return `Errors are \`application/problem+json\` (RFC 9457):\n\n| status | type | title |\n| --- | --- | --- |\n${rows.join('\n')}`
}

export function problemType(code: ProblemCode): string {
  return `urn:telemetry-hub:problem:${code}`
}
