import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Access } from '../access/access.ts'
import type { Role } from '../access/credential.ts'
import type { Grant } from '../access/grant.ts'
import { Problem } from '../errors.ts'
import type { AuditEntry } from '../store/store.ts'
import { isOwn } from './origin.ts'
import { rightOf } from './rights.ts'

/** Who asks, and whether he may. */
export interface Gate {
  /** What the sender of a request may do. */
  grantOf(request: FastifyRequest): Grant
  /** The devices that a request may look at: those it asks for, all of which must be its to read, or all that are. */
  readable(request: FastifyRequest, asked: readonly string[]): string[]
  /** Throws unless the sender has a role. */
  require(request: FastifyRequest, role: Role): void
  /** Throws unless all of the devices, or patterns, are within reach. */
  reach(request: FastifyRequest, devices: readonly string[]): void
}

export const sessionCookie = 'hub_session'

/** Lets each request in that the table of rights allows, and notes in the audit what changes anything. */
export function openGate(app: FastifyInstance, access: Access, audit: (entry: AuditEntry) => Promise<void>): Gate {
  const grants = new WeakMap<FastifyRequest, Grant>()

  app.addHook('onRequest', async (request) => {
    const { role } = rightOf(request.method, request.routeOptions.url ?? '')
    if (role === null) return
    grants.set(request, await enter(access, request, secretOf(request)))
    require(request, role)
  })

  app.addHook('onSend', async (request, reply) => {
    const { audit: action } = rightOf(request.method, request.routeOptions.url ?? '')
    if (action === undefined || reply.statusCode >= 300) return
    const [subject = ''] = request.url.split('?')
    await audit({ ...actorOf(request, grantOf(request)), action, subject })
  })

  function grantOf(request: FastifyRequest): Grant {
    const grant = grants.get(request)
    if (!grant) throw new Error(`BUG: ${request.routeOptions.url} is open to everybody`)
    return grant
  }

  function require(request: FastifyRequest, role: Role): void {
    const grant = grantOf(request)
    if (!grant.has(role)) throw forbidden(`this needs the role ${role}`, grant)
  }

  function reach(request: FastifyRequest, devices: readonly string[]): void {
    const grant = grantOf(request)
    const beyond = devices.find((device) => !grant.covers(device))
    if (beyond !== undefined) throw forbidden(`"${beyond}" is not one of the devices of this credential`, grant)
  }

  return {
    grantOf,
    require,
    reach,
    readable(request, asked) {
      reach(request, asked)
      if (asked.length > 0) return [...asked]
      const { devices } = grantOf(request)
      return devices.includes('*') ? [] : [...devices]
    },
  }
}

/** Throws a problem that says how to be let in. */
export async function enter(access: Access, request: FastifyRequest, secret: string): Promise<Grant> {
  const grant = await access.enter({
    address: request.ip,
    username: '',
    secret,
    certified: [],
    gone: () => request.raw.socket.destroyed,
  })
  if (!('refused' in grant)) return grant
  if (grant.refused === 'slowed') {
    const seconds = Math.ceil(grant.retryAfter / 1000)
    throw new Problem('too-many-attempts', `there were too many wrong tokens: try again in ${seconds} s`, undefined, {
      retryAfter: seconds,
    })
  }
  throw secret === ''
    ? new Problem('unauthorized', 'this hub needs a token', 'send it as "Authorization: Bearer hub_…"')
    : new Problem('unauthorized', 'the token is wrong, has expired or was revoked')
}

export function actorOf(request: FastifyRequest, grant: Grant): Pick<AuditEntry, 'at' | 'actor'> {
  return { at: Date.now(), actor: `${grant.name}, ${request.ip}` }
}

/** RFC 6750 §2.1, or the cookie of the dashboard. */
export function secretOf(request: FastifyRequest): string {
  const bearer = /^bearer +(\S+)$/i.exec(request.headers.authorization ?? '')?.[1]
  return bearer ?? cookieOf(request)
}

/** Browsers send it along from all origins of a site, such as other ports of the host; it is for the hub's pages alone. */
function cookieOf(request: FastifyRequest): string {
  if (!isOwn(request)) return ''
  const pairs = (request.headers.cookie ?? '').split(/; */)
  return pairs.find((pair) => pair.startsWith(`${sessionCookie}=`))?.slice(sessionCookie.length + 1) ?? ''
}

function forbidden(detail: string, { devices, roles }: Grant): Problem {
  return new Problem('forbidden', detail, `it has the roles ${roles.join(', ')} for the devices ${devices.join(', ')}`)
}
