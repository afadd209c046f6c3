import { Problem } from '../errors.ts'
import { formatDuration, parseDuration } from '../units.ts'
import type { AddressGuard } from './addresses.ts'
import { makeSecret, readSecret } from './signature.ts'

/** How a consumer is pushed. */
export interface PushSettings {
  url: string
  /** Each signs; the newest comes first. Never empty. */
  secrets: string[]
  /** Readings in a request at most. */
  batch: number
  /** How long a batch may wait for more readings, from its first on. */
  batchWaitMillis: number
  /** Requests at the same time at most. */
  concurrency: number
  /** Requests; `null` is as many as the receiver takes. */
  ratePerSecond: number | null
  /** For one exchange, from the look-up of the name to the end of the answer. */
  timeoutMillis: number
  /** Why nothing is sent any more: the receiver has answered 410. */
  disabled: string | null
}

/** The settings as people see them. Secrets are counted, never shown again. */
export interface ShownPush {
  url: string
  secrets: number
  batch: number
  batchWait: string
  concurrency: number
  rate: string | null
  timeout: string
  disabled: string | null
}

type Optional = Omit<PushSettings, 'url' | 'secrets' | 'disabled'>

const defaults: Optional = {
  batch: 100,
  batchWaitMillis: 1000,
  concurrency: 4,
  ratePerSecond: null,
  timeoutMillis: 15_000,
}

const maxUrlCharacters = 2048
/** Rotation needs two; more only make the header long. */
const maxSecrets = 4
const maxRatePerSecond = 10_000

/** What can be left out: its name in JSON, and how it is read. */
const readers: { [Key in keyof Optional]: { name: string; read(given: unknown): Optional[Key] } } = {
  batch: { name: 'batch', read: (given) => readCount('batch', given, 1000) },
  batchWaitMillis: { name: 'batchWait', read: (given) => readSpan('batchWait', given, 0, 60_000) },
  concurrency: { name: 'concurrency', read: (given) => readCount('concurrency', given, 32) },
  ratePerSecond: { name: 'rate', read: readRate },
  timeoutMillis: { name: 'timeout', read: (given) => readSpan('timeout', given, 1000, 60_000) },
}

const known = new Set(['url', 'secret', 'secrets', ...Object.values(readers).map(({ name }) => name)])

/**
 * Settings from JSON as people write it: `{"url":"https://…","secret":"whsec_…","batch":100,"batchWait":"1s",
 * "concurrency":4,"rate":"50/s","timeout":"15s"}`. What is absent stays as it was `before`, or has its default; `null`
 * stands for the default (RFC 7396). A webhook that was disabled is given another chance.
 *
 * `madeSecret` is the secret that the hub had to make; this is the only moment at which its owner can be told. Throws
 * `Problem` for what cannot be.
 */
export function readPush(
  given: unknown,
  before: PushSettings | null,
  guard: Pick<AddressGuard, 'refusal'>,
): { settings: PushSettings; madeSecret: string | null } {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw invalid('"push" must be an object, or null for a consumer that is pulled', 'try {"push":{"url":"https://…"}}')
  }
  const members = given as Record<string, unknown>
  for (const name of Object.keys(members)) {
    if (!known.has(name)) throw invalid(`"push" has no "${name}"`, `it has ${[...known].join(', ')}`)
  }
  const member = <Key extends keyof Optional>(key: Key): Optional[Key] => {
    const value = members[readers[key].name]
    if (value === undefined) return before ? before[key] : defaults[key]
    return value === null ? defaults[key] : readers[key].read(value)
  }
  const url = members.url === undefined && before ? before.url : readUrl(members.url, guard)
  const secrets = readSecrets(members, before)
  const made = secrets === null ? makeSecret() : null
  return {
    settings: {
      url,
      secrets: secrets ?? [made as string],
      batch: member('batch'),
      batchWaitMillis: member('batchWaitMillis'),
      concurrency: member('concurrency'),
      ratePerSecond: member('ratePerSecond'),
      timeoutMillis: member('timeoutMillis'),
      disabled: null,
    },
    madeSecret: made,
  }
}

export function showPush(settings: PushSettings): ShownPush {
  return {
    url: settings.url,
    secrets: settings.secrets.length,
    batch: settings.batch,
    batchWait: formatDuration(settings.batchWaitMillis),
    concurrency: settings.concurrency,
    rate: settings.ratePerSecond === null ? null : formatRate(settings.ratePerSecond),
    timeout: formatDuration(settings.timeoutMillis),
    disabled: settings.disabled,
  }
}

function readUrl(given: unknown, guard: Pick<AddressGuard, 'refusal'>): string {
  if (typeof given !== 'string') throw invalid('"url" must be the address that the hub posts to, such as "https://…"')
  const url = URL.canParse(given) ? new URL(given) : null
  if (!url) throw invalid(`"url" is "${given.slice(0, 80)}": that is no address`, 'an address begins with https://')
  if (url.protocol !== 'https:' && url.protocol !== 'http:') {
    throw invalid(`"url" begins with ${url.protocol}//: webhooks go to https:// or http://`)
  }
  if (url.username !== '' || url.password !== '') {
    throw invalid('"url" holds a user name or password', 'every request is signed: let the receiver check that instead')
  }
  // No request carries a fragment. RFC 9110 §7.1
  url.hash = ''
  if (url.href.length > maxUrlCharacters) throw invalid(`"url" is longer than ${maxUrlCharacters} characters`)
  const refusal = guard.refusal(url.hostname)
  if (refusal !== null) throw invalid(`"url": ${refusal}`)
  return url.href
}

/** The secrets that are given or stay, or `null` when one has to be made. */
function readSecrets({ secret, secrets }: Record<string, unknown>, before: PushSettings | null): string[] | null {
  if (secret !== undefined && secrets !== undefined) throw invalid('give "secret" or "secrets", not both')
  const given = secrets ?? secret
  if (given === undefined) return before?.secrets ?? null
  if (given === null) return null
  const list = secrets === undefined ? [given] : given
  if (!Array.isArray(list) || list.length === 0 || list.length > maxSecrets) {
    throw invalid(`"secrets" must be a list of 1 to ${maxSecrets} secrets, the newest first`)
  }
  const hint = 'leave it out and the hub makes one'
  return list.map((text: unknown) => {
    if (typeof text !== 'string') throw invalid('a secret must be a text', hint)
    // The reason never quotes the secret: errors are logged.
    const key = readSecret(text)
    if (typeof key === 'string') throw invalid(key, hint)
    return text
  })
}

function readCount(name: string, given: unknown, most: number): number {
  if (Number.isInteger(given) && (given as number) >= 1 && (given as number) <= most) return given as number
  throw invalid(`"${name}" must be a whole number from 1 to ${most}`)
}

function readSpan(name: string, given: unknown, least: number, most: number): number {
  const millis = typeof given === 'string' ? parseDuration(given) : null
  if (millis !== null && millis >= least && millis <= most) return Math.round(millis)
  throw invalid(`"${name}" must be a duration from ${formatDuration(least)} to ${formatDuration(most)}, such as "5s"`)
}

const rateUnits = { s: 1, min: 60 } as const

/** `50/s`, `30/min` in requests a second. */
function readRate(given: unknown): number {
  const match = typeof given === 'string' ? /^(\d+(?:\.\d+)?)\/(s|min)$/.exec(given) : null
  const perSecond = match ? Number(match[1]) / rateUnits[match[2] as keyof typeof rateUnits] : 0
  if (perSecond >= 1 / 60 && perSecond <= maxRatePerSecond) return perSecond
  throw invalid(
    `"rate" must be requests a second or minute, such as "50/s" or "30/min", and at most ${maxRatePerSecond}/s`,
  )
}

function formatRate(perSecond: number): string {
  if (Number.isInteger(perSecond)) return `${perSecond}/s`
  // What was divided by 60 comes back as it was.
  return `${Number((perSecond * rateUnits.min).toPrecision(12))}/min`
}

function invalid(detail: string, hint?: string): Problem {
  return new Problem('invalid-request', detail, hint)
}
