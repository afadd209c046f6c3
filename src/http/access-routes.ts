import { Type } from '@sinclair/typebox'
import { type Credential, roles } from '../access/credential.ts'
import { Problem } from '../errors.ts'
import type { HttpContext, Routes } from './context.ts'
import { actorOf, enter, secretOf, sessionCookie } from './gate.ts'
import { nextLink } from './parameters.ts'

const tags = ['Access']
const Names = (description: string) => Type.Array(Type.String(), { description })
const Kind = Type.Union([Type.Literal('token'), Type.Literal('device')])
const Rules = {
  kind: Kind,
  name: Type.String({ description: 'of a device: its id; of a token: what it is for' }),
  roles: Names(`of a token: some of ${roles.join(', ')}`),
  devices: Names('patterns of the devices that it may read or speak for; `*` stands for any characters'),
  publish: Names('further MQTT topics; `{device}` stands for each of its devices'),
  subscribe: Names('further MQTT topic filters'),
}
const Shown = Type.Object({
  id: Type.String(),
  ...Rules,
  created: Type.Integer(),
  expires: Type.Union([Type.Integer(), Type.Null()]),
  lastUsed: Type.Union([Type.Integer(), Type.Null()], { description: 'may be a minute late' }),
})
const Given = Type.Object(
  {
    kind: Kind,
    name: Rules.name,
    roles: Type.Optional(Rules.roles),
    devices: Type.Optional(Rules.devices),
    publish: Type.Optional(Rules.publish),
    subscribe: Type.Optional(Rules.subscribe),
    expires: Type.Optional(Type.String({ description: 'a duration such as 12h or 30d; without it: never' })),
    password: Type.Optional(Type.String({ description: 'of a device; without it the hub makes a secret' })),
    certificate: Type.Optional(
      Type.Boolean({ description: 'a device that shows a client certificate, and no secret' }),
    ),
  },
  { additionalProperties: false },
)
const maxSessionSeconds = 30 * 86_400

/** Who may come in, and what administrators did. */
export function accessRoutes({ access, gate, store }: HttpContext): Routes {
  return async (app) => {
    app.get(
      '/v1/credentials',
      {
        schema: {
          tags,
          summary: 'List credentials, in the order in which they were made',
          querystring: Type.Object({
            limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, default: 100 })),
            cursor: Type.Optional(
              Type.String({ pattern: '^\\d{1,15}-\\w{1,20}$', description: '`next` of the page before' }),
            ),
          }),
          response: {
            200: Type.Object({ credentials: Type.Array(Shown), next: Type.Union([Type.String(), Type.Null()]) }),
          },
        },
      },
      async (request, reply) => {
        const { limit = 100, cursor } = request.query
        // The last one of the page before may have been revoked meanwhile.
        const [created, after = ''] = (cursor ?? '0-').split('-')
        const begin = Number(created)
        const rest = access.list().filter((one) => one.created > begin || (one.created === begin && one.id > after))
        const page = rest.slice(0, limit)
        const last = page.at(-1)
        const next = last && rest.length > limit ? `${last.created}-${last.id}` : null
        if (next !== null) reply.header('link', nextLink(request.url, next))
        return { credentials: page.map(show), next }
      },
    )

    app.post(
      '/v1/credentials',
      {
        schema: {
          tags,
          summary: 'Make a token, or let a device in',
          description:
            'The secret is in the answer, this once. The first credential ends the time in which everybody may do everything.',
          body: Given,
          response: { 201: Type.Object({ ...Shown.properties, secret: Type.Union([Type.String(), Type.Null()]) }) },
        },
      },
      async (request, reply) => {
        const by = actorOf(request, gate.grantOf(request))
        const { kind, name } = request.body
        const made = await access.create(request.body, {
          ...by,
          action: 'credential.create',
          subject: `${kind} ${name}`,
        })
        return reply
          .code(201)
          .header('cache-control', 'no-store')
          .send({ ...show(made.credential), secret: made.secret })
      },
    )

    app.delete(
      '/v1/credentials/:id',
      {
        schema: {
          tags,
          summary: 'Revoke a credential',
          description: 'At once: connections that were let in by it end.',
          params: Type.Object({ id: Type.String() }),
          response: { 204: Type.Null() },
        },
      },
      async (request, reply) => {
        const { id } = request.params
        const by = { ...actorOf(request, gate.grantOf(request)), action: 'credential.revoke', subject: id }
        if (!(await access.revoke(id, by))) throw new Problem('unknown-credential', `there is no credential ${id}`)
        return reply.code(204).send(null)
      },
    )

    app.get(
      '/v1/audit',
      {
        schema: {
          tags,
          summary: 'What administrators did, newest first',
          querystring: Type.Object({
            limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, default: 100 })),
            cursor: Type.Optional(Type.String({ pattern: '^\\d{1,15}$', description: '`next` of the page before' })),
          }),
          response: {
            200: Type.Object({
              entries: Type.Array(
                Type.Object({
                  id: Type.Integer(),
                  at: Type.Integer(),
                  actor: Type.String({ description: 'who, and from where' }),
                  action: Type.String(),
                  subject: Type.String(),
                }),
              ),
              next: Type.Union([Type.String(), Type.Null()]),
            }),
          },
        },
      },
      async (request, reply) => {
        const { limit = 100, cursor } = request.query
        const entries = await store.audited({ before: cursor === undefined ? null : Number(cursor), limit: limit + 1 })
        const next = entries.length > limit ? String(entries[limit - 1]?.id) : null
        if (next !== null) reply.header('link', nextLink(request.url, next))
        return { entries: entries.slice(0, limit), next }
      },
    )

    app.get(
      '/v1/session',
      {
        schema: {
          tags,
          summary: 'Who am I?',
          response: {
            200: Type.Object({
              open: Type.Boolean({ description: 'nobody needs a token here' }),
              name: Type.String(),
              roles: Type.Array(Type.String()),
              devices: Type.Array(Type.String()),
            }),
          },
        },
      },
      async (request) => {
        const { name, roles, devices } = await enter(access, request, secretOf(request))
        return { open: access.open, name, roles: [...roles], devices: [...devices] }
      },
    )

    app.post(
      '/v1/session',
      {
        schema: {
          tags,
          summary: 'Sign a browser in',
          description: 'Sets a cookie that no script can read and no other site can use.',
          body: Type.Object({ token: Type.String({ maxLength: 512 }) }, { additionalProperties: false }),
          response: { 204: Type.Null() },
        },
      },
      async (request, reply) => {
        const { token } = request.body
        await enter(access, request, token)
        if (/[;,\s]/.test(token)) throw new Problem('unauthorized', 'this is no token')
        return reply
          .header('set-cookie', cookie(request.protocol, token, maxSessionSeconds))
          .code(204)
          .send(null)
      },
    )

    app.delete(
      '/v1/session',
      { schema: { tags, summary: 'Sign a browser out', response: { 204: Type.Null() } } },
      async (request, reply) =>
        reply
          .header('set-cookie', cookie(request.protocol, '', 0))
          .code(204)
          .send(null),
    )
  }
}

// RFC 6265
function cookie(protocol: string, value: string, seconds: number): string {
  const secure = protocol === 'https' ? '; Secure' : ''
  return `${sessionCookie}=${value}; Path=/; HttpOnly; SameSite=Strict; Max-Age=${seconds}${secure}`
}

function show({ hash, ...shown }: Credential) {
  return shown
}
