import { Failure } from './failure.ts'
import { fingerprint, flatten } from './fingerprint.ts'
import { type Account, type Ledger, wasAcknowledged, wasBad, wasSent } from './ledger.ts'

/** What a hub's history says about what it was sent. Counts are of distinct readings: one device, one time. */
export interface Verification {
  sent: number
  acknowledged: number
  stored: number
  /** Acknowledged, and not in the history. */
  missing: number
  /** In the history with other values. */
  different: number
  /** In the history again. */
  duplicated: number
  /** In the history within the same time, and never sent by this run. */
  unexpected: number
  /** Sent with several values for one time: only that something is stored can be checked. */
  corrected: number
  /** Sent to be refused, and so not looked for. */
  excluded: number
  ok: boolean
  examples: { device: string; ts: number; problem: 'missing' | 'different' | 'duplicated' | 'unexpected' }[]
}

const pageReadings = 1000
const devicesAtOnce = 8
const keptExamples = 10
const attempts = 5
const firstPauseMillis = 250

export async function verify(options: {
  hub: string
  token: string | undefined
  names: string[]
  ledger: Ledger
}): Promise<Verification> {
  const { hub, names, ledger } = options
  const result: Verification = {
    sent: 0,
    acknowledged: 0,
    stored: 0,
    missing: 0,
    different: 0,
    duplicated: 0,
    unexpected: 0,
    corrected: 0,
    excluded: 0,
    ok: true,
    examples: [],
  }
  let asked = 0
  let unknown = 0
  let nextDevice = 0

  async function work(): Promise<void> {
    while (nextDevice < names.length) {
      const device = nextDevice++
      const account = ledger.account(device)
      if (!account) continue
      const expected = expect(account, result)
      if (expected.length === 0) continue
      asked++
      const name = names[device]!
      const found = await compare(history(options, name, account, expected), name, account, expected, result)
      if (!found) unknown++
    }
  }
  await Promise.all(Array.from({ length: devicesAtOnce }, work))
  if (asked > 0 && unknown === asked) {
    throw new Failure(1, `--verify: ${hub} knows none of the devices (404): is it the HTTP address of the right hub?`)
  }
  result.ok = result.missing + result.different + result.duplicated === 0
  return result
}

/** The readings to look for, as indexes in the account in the order of their times. */
function expect(account: Account, result: Verification): Uint32Array {
  const { ts, flags, length } = account
  const expected = new Uint32Array(length)
  let count = 0
  let sorted = true
  for (let reading = 0; reading < length; reading++) {
    if (!(flags[reading]! & wasSent)) continue
    if (flags[reading]! & wasBad) {
      result.excluded++
      continue
    }
    if (count > 0 && ts[reading]! < ts[expected[count - 1]!]!) sorted = false
    expected[count++] = reading
  }
  const found = expected.subarray(0, count)
  return sorted ? found : found.sort((a, b) => ts[a]! - ts[b]!)
}

interface StoredReading {
  ts: number
  values: unknown
}

/** Compares one device; false when the hub does not know it. */
async function compare(
  pages: AsyncIterable<StoredReading[] | 'unknown device'>,
  device: string,
  account: Account,
  expected: Uint32Array,
  result: Verification,
): Promise<boolean> {
  const { ts, fingerprints, flags } = account
  const note = (at: number, problem: Verification['examples'][number]['problem']) => {
    result[problem]++
    if (result.examples.length < keptExamples) result.examples.push({ device, ts: at, problem })
  }
  const end = (first: number) => {
    let last = first + 1
    while (last < expected.length && ts[expected[last]!] === ts[expected[first]!]) last++
    return last
  }
  /** By the first of those that share a time. */
  const seen = new Uint8Array(expected.length)
  let known = true

  for await (const page of pages) {
    if (page === 'unknown device') {
      known = false
      break
    }
    for (const reading of page) {
      const first = lowerBound(expected, ts, reading.ts)
      if (first === expected.length || ts[expected[first]!] !== reading.ts) {
        note(reading.ts, 'unexpected')
        continue
      }
      if (seen[first]) {
        note(reading.ts, 'duplicated')
        continue
      }
      seen[first] = 1
      const wanted = fingerprints[expected[first]!]
      const sameTime = expected.subarray(first, end(first))
      if (sameTime.some((each) => fingerprints[each] !== wanted)) continue
      if (fingerprint(flatten(reading.values)) !== wanted) note(reading.ts, 'different')
    }
  }

  for (let first = 0; first < expected.length; first = end(first)) {
    const sameTime = expected.subarray(first, end(first))
    const acknowledged = sameTime.some((each) => flags[each]! & wasAcknowledged)
    result.sent++
    if (acknowledged) result.acknowledged++
    if (seen[first]) result.stored++
    else if (acknowledged) note(ts[expected[first]!]!, 'missing')
    if (sameTime.some((each) => fingerprints[each] !== fingerprints[sameTime[0]!])) result.corrected++
  }
  return known
}

function lowerBound(expected: Uint32Array, ts: Float64Array, wanted: number): number {
  let low = 0
  let high = expected.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (ts[expected[middle]!]! < wanted) low = middle + 1
    else high = middle
  }
  return low
}

async function* history(
  options: { hub: string; token: string | undefined },
  device: string,
  account: Account,
  expected: Uint32Array,
): AsyncGenerator<StoredReading[] | 'unknown device'> {
  const url = new URL(`v1/devices/${encodeURIComponent(device)}/telemetry`, options.hub.replace(/\/*$/, '/'))
  url.searchParams.set('from', String(account.ts[expected[0]!]))
  url.searchParams.set('to', String(account.ts[expected.at(-1)!]! + 1))
  url.searchParams.set('limit', String(pageReadings))
  for (;;) {
    const response = await get(url, options.token)
    if (response.status === 404) {
      yield 'unknown device'
      return
    }
    const page = (await response.json().catch(() => ({}))) as { readings?: unknown; next?: unknown }
    if (!Array.isArray(page.readings)) {
      throw new Failure(1, `--verify: ${url} does not answer with {"readings":[…]}: is it the HTTP address of the hub?`)
    }
    yield page.readings
    if (typeof page.next !== 'string') return
    if (page.next === url.searchParams.get('cursor')) throw new Failure(1, `--verify: ${url} leads back to itself`)
    url.searchParams.set('cursor', page.next)
  }
}

/** Asks again, more and more slowly, while the hub is away or too busy. */
async function get(url: URL, token: string | undefined): Promise<Response> {
  const headers = token === undefined ? {} : { authorization: `Bearer ${token}` }
  for (let attempt = 1; ; attempt++) {
    let problem: string
    try {
      const response = await fetch(url, { headers })
      if (response.ok || response.status === 404) return response
      problem = `HTTP ${response.status} ${(await response.text()).slice(0, 200)}`
      if (response.status === 401 || response.status === 403) problem += ': give a --token that may read'
      if (response.status < 500 && response.status !== 429) attempt = attempts
    } catch (error) {
      const { cause, message } = error as Error
      problem = cause instanceof Error && cause.message !== '' ? cause.message : message
    }
    if (attempt >= attempts) throw new Failure(1, `--verify: ${url.origin}: ${problem}`)
    await new Promise((resolve) => setTimeout(resolve, firstPauseMillis * 2 ** (attempt - 1)))
  }
}
