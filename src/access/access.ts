import type { Millis } from '../../devices/reading.ts'
import { Problem } from '../errors.ts'
import type { AuditEntry, KeptCredential } from '../store/store.ts'
import { createTurns } from '../turns.ts'
import { createAttempts } from './attempts.ts'
import {
  type Credential,
  fromKept,
  type GivenCredential,
  makeCredential,
  maxCredentials,
  toKept,
} from './credential.ts'
import { type Grant, grantOf, identityOf, openGrant } from './grant.ts'
import { createRevocation } from './revocation.ts'
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
  /** Whether whoever knocked has hung up meanwhile: then nothing is looked at any more. */
  gone(): boolean
}

/** Nobody is let in: who came is wrong, or comes too often. */
type Refusal = { refused: 'unknown' } | { refused: 'slowed'; retryAfter: Millis }

/** A secret that somebody shows. */
interface Guess {
  shown: string
  /** Which credential or device it is meant for. */
  identity: string
  network: string
  /** Its fingerprint. */
  mark: string
}

export interface Access {
  /** Nobody needs credentials: there are none, and only this machine can come in. */
  readonly open: boolean
  enter(knock: Knock): Promise<Grant | Refusal>
  /** What somebody may do who was let in before a restart, by the identity of its grant; `null`: nothing any more. */
  recall(identity: string): Grant | null
  /** In the order in which they were made. */
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
  /** Which addresses count as one. */
  networkOf(address: string): string
  save(credential: KeptCredential, by: AuditEntry): Promise<void>
  remove(id: string, by: AuditEntry): Promise<boolean>
  /** When credentials were last used; may be late. */
  touch(used: [id: string, at: Millis][]): Promise<void>
}

const maxVerified = 20_000
/**
 * Hashes that are computed at one time, each on a thread of the pool, and that wait. Those of passwords that somebody chose
 * take a hundred times as long as those of secrets that the hub made, which therefore have a queue of their own.
 */
const maxHashing = 2
const maxWaiting = 5_000
const busyMillis = 1_000
const touchMillis = 60_000
/** How late the end of a credential is noticed when the clock was set. */
const maxTimerMillis = 60_000

export function createAccess({ kept, loopbackOnly, networkOf, save, remove, touch }: AccessOptions): Access {
  const credentials = new Map<string, Credential>()
  const lent = new Set<string>()
  const byDevice = new Map<string, Credential[]>()
  const revocations = new Map<string, ReturnType<typeof createRevocation>>()
  const attempts = createAttempts()
  const fingerprint = createFingerprints()
  // Who was let in once need not be hashed again: the fingerprint of what was shown, and the hash that it matched.
  const verified = new Map<string, { id: string; hash: string }>()
  const used = new Map<string, Millis>()
  let open = loopbackOnly
  const openDoor = createRevocation()
  let expiry: NodeJS.Timeout | null = null
  const touching = setInterval(() => void keepUsed(), touchMillis)
  touching.unref()
  const hashing = { made: createTurns(maxHashing), chosen: createTurns(maxHashing) }

  replace(kept)

  function put(credential: Credential): void {
    // From now on everybody needs credentials, also who is in already, and also when the last one is revoked.
    open = false
    openDoor.revoke()
    credentials.set(credential.id, credential)
  }

  function drop(id: string): void {
    credentials.delete(id)
    end(id)
  }

  /** Ends what was let in by a credential. What it lets in later, if anything, has another revocation. */
  function end(id: string): void {
    const revocation = revocations.get(id)
    revocations.delete(id)
    revocation?.revoke()
  }

  /** To be called after each change. */
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
      else end(id)
    }
    expiry = null
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
    index()
  }

  async function enter(knock: Knock): Promise<Grant | Refusal> {
    if (open) return openGrant(openDoor)
    const { username, secret, certified } = knock
    // A certificate opens what was made for one: a key that was stolen shall not outlive a change to a password.
    const certificate = certified
      .flatMap((name) => byDevice.get(name) ?? [])
      .find((credential) => credential.hash === null && isValid(credential))
    if (certificate) return admit(certificate)
    const shown = [secret, username].find((text) => idOf(text) !== null) ?? secret
    if (shown === '') return { refused: 'unknown' }
    const identity = idOf(shown) ?? (username === '' ? '' : `device:${username}`)
    const guess = { shown, identity, network: networkOf(knock.address), mark: fingerprint(`${identity}\n${shown}`) }
    const answer = answerAtOnce(guess)
    if (answer) return answer
    const candidates = candidatesOf(shown, username)
    if (candidates.length === 0) return fail(guess)
    const turns = idOf(shown) === null ? hashing.chosen : hashing.made
    if (turns.waiting() >= maxWaiting) return { refused: 'slowed', retryAfter: busyMillis }
    return turns.take(identity, async (): Promise<Grant | Refusal> => {
      if (knock.gone()) return { refused: 'unknown' }
      // What others showed meanwhile counts: guesses that come together are slowed like those that come one by one.
      return answerAtOnce(guess) ?? (await compare(guess, candidates))
    })
  }

  /** What needs no hash: somebody who was let in before, or who must wait. */
  function answerAtOnce({ network, identity, mark }: Guess): Grant | Refusal | null {
    const before = verified.get(mark)
    const remembered = before && credentials.get(before.id)
    if (remembered && remembered.hash === before.hash && isValid(remembered)) return admit(remembered)
    verified.delete(mark)
    const retryAfter = attempts.pause(network, identity)
    return retryAfter > 0 ? { refused: 'slowed', retryAfter } : null
  }

  async function compare(guess: Guess, candidates: readonly Credential[]): Promise<Grant | Refusal> {
    for (const candidate of candidates) {
      const { id, hash } = candidate
      // Looked at again after the hash: it takes its time, and the credential may be gone by then.
      if (hash === null || !isValid(candidate)) continue
      if (!(await matchesHash(guess.shown, hash)) || !isValid(candidate)) continue
      attempts.succeeded(guess.identity)
      verified.set(guess.mark, { id, hash })
      if (verified.size > maxVerified) verified.delete(verified.keys().next().value as string)
      return admit(candidate)
    }
    return fail(guess)
  }

  function fail({ network, identity }: Guess): Refusal {
    attempts.failed(network, identity)
    return { refused: 'unknown' }
  }

  function recall(identity: string): Grant | null {
    if (open) return identity === '' ? openGrant(openDoor) : null
    const name = identity.slice(identity.indexOf(':') + 1)
    const named = [...(byDevice.get(name) ?? []), credentials.get(name)]
    const valid = named.find((one) => one !== undefined && identityOf(one) === identity && isValid(one))
    return valid ? grantTo(valid) : null
  }

  function candidatesOf(shown: string, username: string): Credential[] {
    const id = idOf(shown)
    if (id === null) return byDevice.get(username) ?? []
    const named = credentials.get(id)
    return named ? [named] : []
  }

  function isValid(credential: Credential): boolean {
    const { id, expires } = credential
    return credentials.get(id) === credential && (expires === null || expires > Date.now())
  }

  function admit(credential: Credential): Grant {
    credential.lastUsed = Date.now()
    if (!lent.has(credential.id)) used.set(credential.id, credential.lastUsed)
    return grantTo(credential)
  }

  function grantTo(credential: Credential): Grant {
    let revocation = revocations.get(credential.id)
    if (!revocation) {
      revocation = createRevocation()
      revocations.set(credential.id, revocation)
      // The clock was set back, and the credential is good once more.
      if (credential.expires !== null && !expiry) watchExpiry()
    }
    return grantOf(credential, revocation)
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
    recall,
    list: () =>
      [...credentials.values()]
        .filter(({ id }) => !lent.has(id))
        .sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1)),
    async create(given, by) {
      if (credentials.size - lent.size >= maxCredentials) {
        throw new Problem('too-many', `there are ${maxCredentials} credentials, the most there may be`)
      }
      const made = await makeCredential(given, Date.now())
      await save(toKept(made.credential), by)
      put(made.credential)
      index()
      return made
    },
    async revoke(id, by) {
      if (lent.has(id) || !(await remove(id, by))) return false
      drop(id)
      index()
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
