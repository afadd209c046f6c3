import { createHmac, randomBytes } from 'node:crypto'

/** Standard Webhooks 1.0.0: the headers that let a receiver check who sent a body, and when. */
export interface SignedHeaders {
  'webhook-id': string
  /** Seconds. */
  'webhook-timestamp': string
  'webhook-signature': string
}

const prefix = 'whsec_'
/** "Secrets … between 24 bytes (192 bits) and 64 bytes (512 bits)", Standard Webhooks, "Signature scheme". */
const minSecretBytes = 24
const maxSecretBytes = 64
const madeSecretBytes = 32

export function makeSecret(): string {
  return prefix + randomBytes(madeSecretBytes).toString('base64')
}

/** The key that a secret spells, or the reason why it is none. */
export function readSecret(secret: string): Buffer | string {
  if (!secret.startsWith(prefix)) return `a secret begins with "${prefix}"`
  const text = secret.slice(prefix.length)
  const key = Buffer.from(text, 'base64')
  // Node skips what is no base64, and receivers do not: only the one right spelling will do.
  if (key.toString('base64') !== text) return `a secret is "${prefix}" and base64 with its padding`
  if (key.length < minSecretBytes || key.length > maxSecretBytes) {
    return `a secret has ${minSecretBytes} to ${maxSecretBytes} bytes, this one ${key.length}`
  }
  return key
}

/**
 * Signs with every secret, newest first: while one secret takes the place of another, a receiver that knows either
 * is content.
 */
export function createSigner(secrets: readonly string[]) {
  const keys = secrets.map((secret) => {
    const key = readSecret(secret)
    if (typeof key === 'string') throw new Error(`BUG: ${key}`)
    return key
  })
  return (id: string, wallMillis: number, body: Uint8Array): SignedHeaders => {
    // The signed text is "id.timestamp.body": a full stop in the id would make it ambiguous.
    if (!/^[!-\-/-~]{1,256}$/.test(id)) throw new Error(`BUG: "${id}" is no webhook-id`)
    const timestamp = String(Math.floor(wallMillis / 1000))
    const signatures = keys.map((key) => {
      const hmac = createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body)
      return `v1,${hmac.digest('base64')}`
    })
    return { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signatures.join(' ') }
  }
}
