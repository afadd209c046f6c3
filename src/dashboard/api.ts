/* The hub's HTTP API, as far as the page asks for it. */

/** Milliseconds since the epoch, UTC. */
export type Millis = number
export type Value = number | boolean | string

export interface Reading {
  device: string
  ts: Millis
  values: Record<string, Value>
  /** When it reached the hub. */
  received: Millis
}

export interface DeviceSummary {
  device: string
  online: boolean
  lastSeen: Millis
}

export interface Latest {
  ts: Millis
  value: Value
}

/** One reading, where low and high are the value; or the average of a bucket with its least and greatest value. */
export interface Point {
  ts: Millis
  value: number
  low: number
  high: number
}

export interface HistoryQuery {
  device: string
  metric: string
  /** Inclusive. */
  from: Millis
  /** Exclusive; `null`: to the last reading. */
  to: Millis | null
  /** Length of a bucket; `null`: raw readings. */
  interval: Millis | null
}

/** The hub answered, but not with what was asked for. */
export class Refused extends Error {
  readonly status: number

  constructor(status: number, detail: string) {
    super(detail)
    this.status = status
  }
}

/** No answer came. */
class Unreachable extends Error {}

const timeoutMillis = 20_000
const devicesPerPage = 1000
/** The most that the hub puts into one page. */
const pointsPerPage = 50_000

/** `Date` counts whole seconds, so a smaller difference between the two clocks cannot be told from none. */
const clockTolerance = 2000
let clockOffset = 0

/** The time by the hub's clock, which stamps what is shown here: the reader's own may be wrong. */
export function hubNow(): Millis {
  return Date.now() + clockOffset
}

/** Every device, page after page. */
export async function listDevices(): Promise<DeviceSummary[]> {
  const devices: DeviceSummary[] = []
  const query = new URLSearchParams({ limit: String(devicesPerPage) })
  type Page = { devices: DeviceSummary[]; next: string | null }
  for await (const page of pages<Page>('/v1/devices', query)) devices.push(...page.devices)
  return devices
}

/** The latest values of every device, page after page. */
export async function listLatest(): Promise<{ device: string; values: Record<string, Latest> }[]> {
  const devices: { device: string; values: Record<string, Latest> }[] = []
  const query = new URLSearchParams({ limit: String(devicesPerPage) })
  type Page = { devices: typeof devices; next: string | null }
  for await (const page of pages<Page>('/v1/latest', query)) devices.push(...page.devices)
  return devices
}

/** History of one numeric metric, ascending. Values that are no numbers are left out. */
export async function readHistory(query: HistoryQuery, signal: AbortSignal): Promise<Point[]> {
  const { metric, interval } = query
  const parameters = new URLSearchParams({
    metrics: metric.replaceAll(',', '\\,'),
    from: String(query.from),
    format: 'columns',
    limit: String(pointsPerPage),
  })
  if (query.to !== null) parameters.set('to', String(query.to))
  if (interval !== null) {
    parameters.set('interval', `${interval / 1000}s`)
    parameters.set('aggregate', 'avg,min,max')
  }
  const names =
    interval === null
      ? Array(3).fill(metric === 'ts' ? 'values.ts' : metric)
      : [`${metric}.avg`, `${metric}.min`, `${metric}.max`]
  const points: Point[] = []
  type Page = { columns: string[]; rows: (Value | null)[][]; next: string | null }
  for await (const { columns, rows } of pages<Page>(telemetryPath(query.device), parameters, signal)) {
    const [value = -1, low = -1, high = -1] = names.map((name) => columns.indexOf(name, 1))
    for (const row of rows) {
      const point = { ts: row[0], value: row[value], low: row[low], high: row[high] }
      if (isPoint(point)) points.push(point)
    }
  }
  return points
}

/** Where a CSV file of all metrics of the device comes from. */
export function csvPath(device: string, from: Millis): string {
  return `${telemetryPath(device)}?${new URLSearchParams({ format: 'csv', from: String(from) })}`
}

/** The cursor of the end of the log, or with `after` proof that the feed goes on from there. */
export async function readCursor(after = 'latest'): Promise<string> {
  const { cursor } = await get<{ cursor: string }>(`/v1/feed?${new URLSearchParams({ after, limit: '1' })}`)
  return cursor
}

/** Why the hub can store nothing at present, or `null`. */
export async function readFailure(): Promise<string | null> {
  try {
    await get('/readyz')
    return null
  } catch (error) {
    if (error instanceof Refused) return error.message
    throw error
  }
}

/** Who is signed in; `open`: nobody needs to be. */
export function whoAmI(): Promise<{ open: boolean; name: string }> {
  return get('/v1/session')
}

/** Trades a token for a cookie that this page cannot read. */
export async function signIn(token: string): Promise<void> {
  await ask('/v1/session', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ token }),
  })
}

export async function signOut(): Promise<void> {
  await ask('/v1/session', { method: 'DELETE' })
}

function telemetryPath(device: string): string {
  return `/v1/devices/${encodeURIComponent(device)}/telemetry`
}

function isPoint(cells: Record<keyof Point, Value | null | undefined>): cells is Record<keyof Point, number> {
  return typeof cells.value === 'number' && typeof cells.low === 'number' && typeof cells.high === 'number'
}

async function* pages<T extends { next: string | null }>(path: string, query: URLSearchParams, signal?: AbortSignal) {
  for (;;) {
    const page = await get<T>(`${path}?${query}`, signal)
    yield page
    if (page.next === null) return
    query.set('cursor', page.next)
  }
}

async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await ask(path, {}, signal)).json()) as T
}

async function ask(path: string, init: RequestInit, signal?: AbortSignal): Promise<Response> {
  const timeout = AbortSignal.timeout(timeoutMillis)
  let response: Response
  try {
    response = await fetch(path, { ...init, signal: signal ? AbortSignal.any([signal, timeout]) : timeout })
  } catch (cause) {
    signal?.throwIfAborted()
    throw new Unreachable('The hub does not answer.', { cause })
  }
  const offset = Date.parse(response.headers.get('date') ?? '') - Date.now()
  if (!Number.isNaN(offset)) clockOffset = Math.abs(offset) > clockTolerance ? offset : 0
  if (!response.ok) throw new Refused(response.status, await detailOf(response))
  return response
}

// RFC 9457
async function detailOf(response: Response): Promise<string> {
  try {
    const { detail, title } = (await response.json()) as { detail?: string; title?: string }
    return detail ?? title ?? response.statusText
  } catch {
    return `${response.status} ${response.statusText}`
  }
}
