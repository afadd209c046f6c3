import { randomInt } from 'node:crypto'
import { deviceProblem, type Millis } from '../../devices/reading.ts'
import { Problem } from '../errors.ts'
import { compilePatterns } from '../store/filter.ts'
import type { KeptCredential } from '../store/store.ts'
import { parseDuration } from '../units.ts'
import { hashSecret, makeSecret } from './secret.ts'
import { templateProblem } from './topic-rules.ts'

export const roles = ['admin', 'read', 'write'] as const
export type Role = (typeof roles)[number]

/** What somebody presents to be let in: a token of a program or a person, or what a device logs in with. */
export interface Credential {
  id: string
  kind: 'token' | 'device'
  /** Of a device: its id. Of a token: words that tell an administrator what it is for. */
  name: string
  /** A device has none of them: what it may do follows from its name. */
  roles: Role[]
  /** Patterns of the devices that it may read or speak for, in which `*` stands for any characters. */
  devices: string[]
  /** Topics besides those that follow from the rest; `{device}` stands for each of its devices. */
  publish: string[]
  subscribe: string[]
  /** `null`: only a client certificate lets it in. */
  hash: string | null
  created: Millis
  /** `null`: never. */
  expires: Millis | null
  lastUsed: Millis | null
}

/** What an administrator says of a new credential. */
export interface GivenCredential {
  kind: 'token' | 'device'
  name: string
  roles?: string[]
  devices?: string[]
  publish?: string[]
  subscribe?: string[]
  /** A duration from now. */
  expires?: string
  /** Of a device: chosen by its owner instead of made by the hub. */
  password?: string
  /** Of a device: it comes with a client certificate and has no secret. */
  certificate?: boolean
}

/** In all. A fleet has one a device; all of them are in memory. */
export const maxCredentials = 100_000
const maxPatterns = 100
const minPasswordLength = 8
const maxSecretLength = 512
const idLetters = 'abcdefghijkmnpqrstuvwxyz23456789'

/** Makes a credential and its secret, which is shown this once; `null` where there is none to show. */
export async function makeCredential(given: GivenCredential, now: Millis) {
  check(given)
  const { kind, name, password, certificate = false } = given
  const id = Array.from({ length: 8 }, () => idLetters[randomInt(idLetters.length)]).join('')
  const secret = certificate ? null : (password ?? makeSecret(id))
  const credential: Credential = {
    id,
    kind,
    name,
    roles: (given.roles ?? []) as Role[],
    devices: given.devices ?? (kind === 'device' ? [name] : ['*']),
    publish: given.publish ?? [],
    subscribe: given.subscribe ?? [],
    hash: secret === null ? null : await hashSecret(secret, password === undefined ? 'made' : 'chosen'),
    created: now,
    expires: given.expires === undefined ? null : now + (parseDuration(given.expires) as number),
    lastUsed: null,
  }
  return { credential, secret: password === undefined ? secret : null }
}

function check({ kind, name, roles: asked = [], expires, password, certificate, ...given }: GivenCredential): void {
  const problem = kind === 'device' ? deviceProblem(name) : name.trim() === '' ? 'the name is empty' : null
  if (problem !== null) throw invalid(problem)
  if (name.length > 128) throw invalid('the name is longer than 128 characters')
  if (/\p{Cc}/u.test(name)) throw invalid('the name holds control characters')
  // Its name is also the pattern of the devices that it is.
  if (kind === 'device' && name.includes('*')) throw invalid('the name of a device that logs in must not hold "*"')
  if (kind === 'device' && asked.length > 0) throw invalid('a device has no roles: its topics follow from its name')
  if (kind === 'token' && asked.length === 0) throw invalid(`a token needs roles: some of ${roles.join(', ')}`)
  for (const role of asked) {
    if (!roles.includes(role as Role)) throw invalid(`"${role}" is no role: choose some of ${roles.join(', ')}`)
  }
  if (kind === 'token' && (password !== undefined || certificate)) {
    throw invalid('only devices have passwords and certificates')
  }
  if (password !== undefined && certificate) throw invalid('a device has either a password or a certificate')
  if (password !== undefined && (password.length < minPasswordLength || password.length > maxSecretLength)) {
    throw invalid(`a password has ${minPasswordLength} to ${maxSecretLength} characters`)
  }
  if (password?.startsWith('hub_')) throw invalid('a password must not begin with hub_: secrets that the hub makes do')
  if (expires !== undefined && !parseDuration(expires)) {
    throw invalid(`"expires" is "${expires}": expected a duration such as 12h, 30d or 52w`)
  }
  for (const list of [given.devices, given.publish, given.subscribe]) {
    if (list && (list.length > maxPatterns || list.some((item) => item === '' || item.length > maxSecretLength))) {
      throw invalid(`a list of patterns has at most ${maxPatterns} items, none of them empty`)
    }
  }
  for (const template of [...(given.publish ?? []), ...(given.subscribe ?? [])]) {
    const problem = templateProblem(template)
    if (problem !== null) throw invalid(`"${template}": ${problem}`)
  }
  if (given.devices?.length === 0) throw invalid('"devices" is empty: leave it out, or name some')
}

function invalid(detail: string): Problem {
  return new Problem('invalid-request', detail)
}

/** Whether the credential is for a device; of a pattern: for all devices that it stands for. */
export function createScope(devices: readonly string[]): (device: string) => boolean {
  // The star of one pattern is matched by nothing but the star of another: what passes is within.
  return compilePatterns(devices) ?? (() => true)
}

export function toKept({ id, kind, name, hash, created, expires, lastUsed, ...rules }: Credential): KeptCredential {
  return { id, kind, name, rules: JSON.stringify(rules), hash, created, expires, lastUsed }
}

export function fromKept({ rules, ...row }: KeptCredential): Credential {
  return { ...row, ...JSON.parse(rules) }
}
