import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { Problem, type ProblemCode, problems } from '../errors.ts'
import { isDamage } from '../store/damage.ts'

/** Makes every error an answer of RFC 9457: those of the hub, those of Fastify, and those nobody thought of. */
export function answerProblems(app: FastifyInstance, failure: () => string | null, maxBodySize: number): void {
  app.setErrorHandler((error: FastifyError | Problem, request, reply) =>
    sendProblem(request, reply, asProblem(error, request, failure(), maxBodySize)),
  )
  app.setNotFoundHandler((request, reply) => {
    const detail = `there is nothing at ${request.method} ${request.url.split('?')[0]}`
    sendProblem(request, reply, new Problem('not-found', detail, 'GET /docs lists all addresses'))
  })
}

function asProblem(
  error: FastifyError | Problem,
  request: FastifyRequest,
  failure: string | null,
  maxBodySize: number,
): Problem {
  if (error instanceof Problem) return error
  if (error.validation) return new Problem('invalid-request', error.message)
  if (error.code === 'FST_ERR_CTP_BODY_TOO_LARGE') {
    return new Problem('too-large', `the body is larger than ${maxBodySize / 1024} KiB`, 'send it in several requests')
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
