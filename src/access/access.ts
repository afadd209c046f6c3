import type { Millis } from '../../devices/reading.ts'
import type { AuditEntry, KeptCredential } from '../store/store.ts'
import { createAttempts } from './attempts.ts'
import { type Credential, fromKept, type GivenCredential, makeCredential, toKept } from './credential.ts'
import { type Grant, grantOf, openGrant } from './grant.ts'
import { createFingerprints, idOf, matchesHash } from './secret.ts'

/** What somebody shows at the door. */
interface Knock {
  /** The address that the connection comes from. */
  address: string
  /** Empty where none is given. */
  username: string
  secret: string
  /** Names in a client certificate that was verified. */
  certified: readonly string[]
}

/** Nobody is let in: who came is wrong, or comes too often. */
type Refusal = { refused: 'unknown' } | { refused: 'slowed'; retryAfter: Millis }

export interface Access {
  /** Nobody needs credentials: there are none, and only this machine can come in. */
  readonly open: boolean
  enter(knock: Knock): Promise<Grant | Refusal>
  list(): Credential[]
  /** The secret is in the answer, this once. */
  create(given: GivenCredential, by: AuditEntry): Promise<{ credential: Credential; secret: string | null }>
  /** Ends all that was let in by it. False: there is none. */
  revoke(id: string, by: AuditEntry): Promise<boolean>
  /** Takes over what another process wrote into the file. */
  replace(kept: readonly KeptCredential[]): void
  /** A token that lives in this process alone, for the hub's own helpers. */
  lend(given: GivenCredential): Promise<string>
  close(): Promise<void>
  readonly figures: { credentials: number; failed: number; slowed: number }
}

export interface AccessOptions {
  kept: readonly KeptCredential[]
  /** The hub can be reached from this machine only. */
  loopbackOnly: boolean
  save(credential: KeptCredential, by: AuditEntry): Promise<void>
  remove(id: string, by: AuditEntry): Promise<boolean>
  /** When credentials were last used; may be late. */
  touch(used: [id: string, at: Millis][]): Promise<void>
}

const maxVerified = 20_000
/** Hashes that are computed at one time, and that wait: each takes a thread of the pool. */
const maxHashing = 3
const maxWaiting = 5_000
const busyMillis = 1_000
const touchMillis = 60_000
const maxTimerMillis = 2 ** 31 - 1

export function createAccess({ kept, loopbackOnly, save, remove, touch }: AccessOptions): Access {
  const credentials = new Map<string, Credential>()
  const lent = new Set<string>()
  const byDevice = new Map<string, Credential[]>()
  const aborters = new Map<string, AbortController>()
  const attempts = createAttempts()
  const fingerprint = createFingerprints()
  // Who was let in once need not be hashed again: the fingerprint of what was shown, and the hash that it matched.
  const verified = new Map<string, { id: string; hash: string }>()
  const used = new Map<string, Millis>()
  let open = loopbackOnly
  const openDoor = new AbortController()
  let expiry: NodeJS.Timeout | null = null
  const touching = setInterval(() => void keepUsed(), touchMillis)
  touching.unref()
  let hashing = 0
  const waiting: (() => void)[] = []

  replace(kept)

  function put(credential: Credential): void {
    // From now on everybody needs credentials, also who is in already, and also when the last one is revoked.
    open = false
    openDoor.abort()
    credentials.set(credential.id, credential)
    index()
  }

  function drop(id: string): void {
    credentials.delete(id)
    aborters.get(id)?.abort()
    aborters.delete(id)
    index()
  }

  function index(): void {
    byDevice.clear()
    for (const credential of credentials.values()) {
      if (credential.kind !== 'device') continue
      const others = byDevice.get(credential.name)
      if (others) others.push(credential)
      else byDevice.set(credential.name, [credential])
    }
    watchExpiry()
  }

  /** Ends what was let in by a credential when its time is over. */
  function watchExpiry(): void {
    if (expiry) clearTimeout(expiry)
    const now = Date.now()
    let next = Number.POSITIVE_INFINITY
    for (const { id, expires } of credentials.values()) {
      if (expires === null) continue
      if (expires > now) next = Math.min(next, expires)
      else aborters.get(id)?.abort()
    }
    if (next === Number.POSITIVE_INFINITY) return
    expiry = setTimeout(watchExpiry, Math.min(next - now, maxTimerMillis))
    expiry.unref()
  }

  function replace(next: readonly KeptCredential[]): void {
    const ids = new Set(next.map(({ id }) => id))
    for (const id of [...credentials.keys()]) if (!ids.has(id) && !lent.has(id)) drop(id)
    for (const row of next) {
      const known = credentials.get(row.id)
      const same =
        known && JSON.stringify({ ...toKept(known), lastUsed: null }) === JSON.stringify({ ...row, lastUsed: null })
      if (same) continue
      if (known) drop(row.id)
      put(fromKept(row))
    }
  }

  async function enter({ address, username, secret, certified }: Knock): Promise<Grant | Refusal> {
    if (open) return openGrant(openDoor.signal)
    const certificate = certified.flatMap((name) => byDevice.get(name) ?? []).find(isValid)
    if (certificate) return admit(certificate)
    const shown = [secret, username].find((text) => idOf(text) !== null) ?? secret
    const identity = idOf(shown) ?? (username === '' ? '' : `device:${username}`)
    if (shown === '') return { refused: 'unknown' }
    const mark = fingerprint(`${identity}\n${shown}`)
    const before = verified.get(mark)
    const remembered = before && credentials.get(before.id)
    if (remembered && remembered.hash === before.hash && isValid(remembered)) return admit(remembered)
    verified.delete(mark)
    const retryAfter = attempts.pause(address, identity)
    if (retryAfter > 0) return { refused: 'slowed', retryAfter }
    const candidates = candidatesOf(shown, username)
    if (waiting.length >= maxWaiting) return { refused: 'slowed', retryAfter: busyMillis }
    const match = await findMatch(shown, candidates)
    if (!match) {
      attempts.failed(address, identity)
      return { refused: 'unknown' }
    }
    attempts.succeeded(identity)
    verified.set(mark, { id: match.id, hash: match.hash as string })
    if (verified.size > maxVerified) verified.delete(verified.keys().next().value as string)
    return admit(match)
  }

  function candidatesOf(shown: string, username: string): Credential[] {
    const id = idOf(shown)
    if (id === null) return byDevice.get(username) ?? []
    const named = credentials.get(id)
    return named ? [named] : []
  }

  async function findMatch(shown: string, candidates: Credential[]): Promise<Credential | null> {
    for (const candidate of candidates) {
      const { hash } = candidate
      // Looked at again after the hash: it takes its time, and the credential may be gone by then.
      if (hash === null || !isValid(candidate)) continue
      if ((await inTurn(() => matchesHash(shown, hash))) && isValid(candidate)) return candidate
    }
    return null
  }

  async function inTurn(task: () => Promise<boolean>): Promise<boolean> {
    if (hashing >= maxHashing) {
      await new Promise<void>((resolve) => waiting.push(resolve))
    }
    hashing++
    try {
      return await task()
    } finally {
      hashing--
      waiting.shift()?.()
    }
  }

  function isValid(credential: Credential): boolean {
    const { id, expires } = credential
    return credentials.get(id) === credential && (expires === null || expires > Date.now())
  }

  function admit(credential: Credential): Grant {
    credential.lastUsed = Date.now()
    if (!lent.has(credential.id)) used.set(credential.id, credential.lastUsed)
    let aborter = aborters.get(credential.id)
    if (!aborter) {
      aborter = new AbortController()
      aborters.set(credential.id, aborter)
    }
    return grantOf(credential, aborter.signal)
  }

  async function keepUsed(): Promise<void> {
    if (used.size === 0) return
    const list = [...used]
    used.clear()
    await touch(list).catch(() => {})
  }

  return {
    get open() {
      return open
    },
    enter,
    list: () => [...credentials.values()].filter(({ id }) => !lent.has(id)).sort((a, b) => a.created - b.created),
    async create(given, by) {
      const made = await makeCredential(given, Date.now())
      await save(toKept(made.credential), by)
      put(made.credential)
      return made
    },
    async revoke(id, by) {
      if (lent.has(id) || !(await remove(id, by))) return false
      drop(id)
      return true
    },
    replace,
    async lend(given) {
      const { credential, secret } = await makeCredential(given, Date.now())
      lent.add(credential.id)
      credentials.set(credential.id, credential)
      return secret as string
    },
    async close() {
      clearInterval(touching)
      if (expiry) clearTimeout(expiry)
      await keepUsed()
    },
    get figures() {
      return { credentials: credentials.size - lent.size, ...attempts.figures }
    },
  }
}
