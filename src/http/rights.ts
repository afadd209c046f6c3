import type { Role } from '../access/credential.ts'

/** What an address asks of who calls it. */
export interface Right {
  /** `null`: it is for everybody. */
  role: Role | null
  /** The action as the audit names it; without one a call leaves no trace. */
  audit?: string
}

const open: Right = { role: null }
const read: Right = { role: 'read' }
const write: Right = { role: 'write' }
const admin: Right = { role: 'admin' }

/** Who may do what. Which devices somebody may do it with is looked at where they are known. */
export const rights: Readonly<Record<string, Right>> = {
  'GET /healthz': open,
  'GET /readyz': open,
  'GET /metrics': read,
  'GET /mqtt': open,
  'GET /*': open,
  'GET /v1/session': open,
  'POST /v1/session': open,
  'DELETE /v1/session': open,

  'POST /v1/telemetry': write,
  'POST /v1/devices/:device/telemetry': write,

  'GET /v1/devices': read,
  'GET /v1/devices/:device': read,
  'GET /v1/devices/:device/telemetry': read,
  'GET /v1/devices/:device/telemetry/latest': read,
  'GET /v1/latest': read,
  'GET /v1/feed': read,

  'GET /v1/consumers': read,
  'GET /v1/consumers/:name': read,
  'PUT /v1/consumers/:name': { role: 'read', audit: 'consumer.put' },
  'PATCH /v1/consumers/:name': { role: 'read', audit: 'consumer.change' },
  'DELETE /v1/consumers/:name': { role: 'read', audit: 'consumer.delete' },
  'POST /v1/consumers/:name/receive': read,
  'POST /v1/consumers/:name/acknowledge': read,
  'POST /v1/consumers/:name/release': read,
  'POST /v1/consumers/:name/extend': read,
  'POST /v1/consumers/:name/reject': read,
  'POST /v1/consumers/:name/seek': { role: 'read', audit: 'consumer.seek' },
  'GET /v1/consumers/:name/attempts': read,
  'POST /v1/consumers/:name/test': { role: 'admin', audit: 'consumer.test' },
  'GET /v1/consumers/:name/dead-letters': read,
  'POST /v1/consumers/:name/dead-letters/redrive': { role: 'read', audit: 'dead-letters.redrive' },
  'DELETE /v1/consumers/:name/dead-letters': { role: 'read', audit: 'dead-letters.delete' },
  'DELETE /v1/consumers/:name/dead-letters/:id': { role: 'read', audit: 'dead-letter.delete' },

  'GET /v1/quarantine': admin,
  'POST /v1/quarantine/:id/retry': { role: 'admin', audit: 'quarantine.retry' },
  'DELETE /v1/quarantine/:id': { role: 'admin', audit: 'quarantine.delete' },

  'GET /v1/credentials': admin,
  'POST /v1/credentials': admin,
  'DELETE /v1/credentials/:id': admin,
  'GET /v1/audit': admin,
}

/** An address that the table does not know is for administrators. */
export function rightOf(method: string, url: string): Right {
  return rights[`${method === 'HEAD' ? 'GET' : method} ${url}`] ?? admin
}
