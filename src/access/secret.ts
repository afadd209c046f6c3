import { createHmac, randomBytes, scrypt as scryptCallback, timingSafeEqual } from 'node:crypto'
import { promisify } from 'node:util'

const scrypt = promisify<string, Buffer, number, Record<string, number>, Buffer>(scryptCallback)

/**
 * The cost of scrypt (RFC 7914). A secret that the hub made holds 192 random bits, which no number of guesses finds: it
 * needs to be no more than one-way, and a fleet that reconnects after a restart must not wait for it. A password that a
 * person chose can be guessed from a stolen file, so each guess costs what OWASP recommends.
 */
const costs = {
  made: { N: 1024, r: 8, p: 1 },
  chosen: { N: 16_384, r: 8, p: 5 },
}
const hashBytes = 32

/** A secret of the hub: it names its credential, so that looking it up compares nothing secret. */
export function makeSecret(id: string): string {
  return `hub_${id}_${randomBytes(24).toString('base64url')}`
}

/** The credential that a text names, if it is a secret of the hub. */
export function idOf(secret: string): string | null {
  return /^hub_([a-z2-9]{8})_[\w-]{32}$/.exec(secret)?.[1] ?? null
}

export async function hashSecret(secret: string, kind: keyof typeof costs): Promise<string> {
  const { N, r, p } = costs[kind]
  const salt = randomBytes(16)
  const hash = await scrypt(secret, salt, hashBytes, { N, r, p })
  return ['scrypt', N, r, p, salt.toString('base64'), hash.toString('base64')].join('$')
}

/** Whether the hash was made of the secret; compared in constant time. */
export async function matchesHash(secret: string, stored: string): Promise<boolean> {
  const [kind, N, r, p, salt = '', hash = ''] = stored.split('$')
  if (kind !== 'scrypt') return false
  const expected = Buffer.from(hash, 'base64')
  const cost = { N: Number(N), r: Number(r), p: Number(p) }
  return timingSafeEqual(await scrypt(secret, Buffer.from(salt, 'base64'), expected.length, cost), expected)
}

/** Names a secret for as long as this process lives, without keeping it. */
export function createFingerprints(): (secret: string) => string {
  const key = randomBytes(32)
  return (secret) => createHmac('sha256', key).update(secret).digest('base64')
}
