import {
  type Decoded,
  deviceProblem,
  limits,
  type Millis,
  metricProblem,
  type Reading,
  textProblem,
  type Value,
} from './reading.ts'
import { parseRfc3339, readTime, type TimeWindow } from './time.ts'

/** What a codec knows of a message besides its text. */
export interface Context {
  /** Empty for the shapes that name their devices themselves. */
  device: string
  /** From a topic that names a metric: the metric of a bare scalar, the prefix of an object's metrics. */
  metric: string | null
  now: Millis
  window: TimeWindow
}

/** Turns the text of one message into readings. It never throws: what it cannot read is in `rejected`. */
export type Codec = (text: string, context: Context) => Decoded

/** The codecs that a topic can be mapped to, by the name used in the configuration. */
export const codecs = {
  json: decodeJson,
  scalar: decodeScalar,
  'thingsboard-gateway': decodeGateway,
  tasmota: decodeTasmota,
  shelly: decodeShelly,
} as const satisfies Record<string, Codec>

export type CodecName = keyof typeof codecs

/** Reads a message with a codec, and looks after what no codec is prepared for. */
export function decode(codec: CodecName, text: string, context: Context): Decoded {
  try {
    return collapse(codecs[codec](text, context), text)
  } catch (error) {
    // JSON that is nested some thousand levels deep can be read, but not written again.
    if (error instanceof RangeError) return rejectAll(text, 'the payload is nested too deeply')
    throw error
  }
}

/** With very many bad items, the message is kept once and not a piece for each of them. */
export function collapse({ readings, rejected }: Decoded, text: string | Uint8Array): Decoded {
  const [first] = rejected
  if (rejected.length <= limits.maxRejected || !first) return { readings, rejected }
  const reason = `${rejected.length} items cannot be read, the first of them is item ${first.item}: ${first.reason}`
  return { readings, rejected: [{ item: first.item, payload: text, reason }] }
}

/**
 * The native shapes: `{metric: value}`, `{ts, metric: value}`, `{ts, values: {…}}`, and arrays of them.
 * A topic that names a metric also takes a bare scalar.
 */
function decodeJson(text: string, context: Context): Decoded {
  const parsed = parseJson(text)
  if (parsed === undefined) {
    return context.metric === null ? rejectAll(text, notJson(text)) : decodeScalar(text, context)
  }
  if (Array.isArray(parsed)) return decodeItems(parsed, text, context)
  const reading = toReading(parsed, context)
  return typeof reading === 'string' ? rejectAll(text, reading) : { readings: [reading], rejected: [] }
}

// The grammar of a number in JSON (RFC 8259 §6): `0x10`, `1_000` and the empty text are words, not numbers.
const number = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/

/** One bare scalar: a JSON number, `true`, `false`, or else the text as it stands, unless it is an object or `null`. */
function decodeScalar(text: string, context: Context): Decoded {
  if (context.metric === null) return rejectAll(text, 'a bare value needs a topic that names its metric')
  const trimmed = text.trim()
  const value = number.test(trimmed) ? Number(trimmed) : (words.get(trimmed) ?? unquote(trimmed))
  if (value === '') return rejectAll(text, 'the payload is empty')
  if (value === 'null') return rejectAll(text, '`null` is no value')
  if (trimmed.startsWith('{') && parseJson(trimmed) !== undefined) {
    return rejectAll(text, 'an object is no bare value: send it to the topic of the device, devices/{device}/telemetry')
  }
  const reading = start(context, null)
  const problem = addValue(reading, context.metric, value)
  return problem === null ? { readings: [reading], rejected: [] } : rejectAll(text, problem)
}

const words = new Map<string, Value>([
  ['true', true],
  ['false', false],
])

function unquote(text: string): string {
  if (!text.startsWith('"')) return text
  const parsed = parseJson(text)
  return typeof parsed === 'string' ? parsed : text
}

/** ThingsBoard's gateway API: an object from device to an array of readings. */
function decodeGateway(text: string, context: Context): Decoded {
  const parsed = parseJson(text)
  if (parsed === undefined) return rejectAll(text, notJson(text))
  if (!isObject(parsed)) return rejectAll(text, 'a gateway sends an object from device to an array of readings')
  const decoded: Decoded = { readings: [], rejected: [] }
  const count = Object.values(parsed).reduce(
    (sum: number, content) => sum + (Array.isArray(content) ? content.length : 1),
    0,
  )
  if (count > limits.maxReadings) return rejectAll(text, tooMany)
  let item = 0
  for (const [device, content] of Object.entries(parsed)) {
    const problem = deviceProblem(device)
    for (const entry of Array.isArray(content) ? content : [content]) {
      item++
      const reading = problem ?? toReading(entry, { ...context, device, metric: null })
      if (typeof reading !== 'string') decoded.readings.push(reading)
      else decoded.rejected.push({ item, payload: JSON.stringify({ [device]: [entry] }), reason: reading })
    }
  }
  return item === 0 ? rejectAll(text, 'the message holds no reading') : decoded
}

/**
 * Tasmota's `SENSOR` and `STATE` telemetry. Its `Time` is the device's local wall clock without a zone, so it
 * is used only when it carries one ; else the hub stamps the arrival.
 */
function decodeTasmota(text: string, context: Context): Decoded {
  return decodeReport(text, context, (report) => {
    const { Time, ...values } = report
    const ts = typeof Time === 'string' ? parseRfc3339(Time) : null
    return ts === null ? { values } : { ts, values }
  })
}

/** Shelly, second generation: `NotifyStatus` over RPC, or the bare status of one component. */
function decodeShelly(text: string, context: Context): Decoded {
  return decodeReport(text, context, (report) => {
    const status = 'method' in report && isObject(report.params) ? report.params : report
    const { ts, id: _id, source: _source, ...values } = status
    // Shelly reports seconds with a fraction, by its documentation: the one unit that is known, not guessed.
    return typeof ts === 'number' ? { ts: Math.round(ts * 1000), values } : { values }
  })
}

type Report = Record<string, unknown>

/** A vendor's object, brought into a native shape by `rewrite`. */
function decodeReport(text: string, context: Context, rewrite: (report: Report) => Report): Decoded {
  const parsed = parseJson(text)
  if (!isObject(parsed)) return decodeJson(text, context)
  const reading = toReading(rewrite(parsed), context)
  return typeof reading === 'string' ? rejectAll(text, reading) : { readings: [reading], rejected: [] }
}

const tooMany = `a message holds at most ${limits.maxReadings} readings: send them in several`

function decodeItems(items: unknown[], text: string, context: Context): Decoded {
  if (items.length > limits.maxReadings) return rejectAll(text, tooMany)
  const decoded: Decoded = { readings: [], rejected: [] }
  items.forEach((entry, index) => {
    const reading = toReading(entry, context)
    if (typeof reading !== 'string') decoded.readings.push(reading)
    else decoded.rejected.push({ item: index + 1, payload: JSON.stringify(entry), reason: reading })
  })
  return items.length === 0 ? rejectAll('[]', 'the message holds no reading') : decoded
}

/** One item of any native shape as a measurement, or the reason why it is none. */
export function toReading(item: unknown, context: Context): Reading | string {
  if (context.metric !== null && !isObject(item)) {
    const reading = start(context, null)
    const problem = addMember(reading, context.metric, item, 0)
    return problem ?? (reading.metrics.length === 0 ? 'the reading holds no value' : reading)
  }
  if (!isObject(item)) return 'a reading is a JSON object such as {"temperature":21.5}'
  let ts: Millis | null = null
  if ('ts' in item && item.ts !== null) {
    const time = readTime(item.ts, context.now, context.window)
    if (typeof time === 'string') return time
    ts = time
  }
  const reading = start(context, ts)
  const wrapped = wrappedValues(item)
  const prefix = context.metric === null ? '' : `${context.metric}.`
  const problem = addMembers(reading, wrapped ?? item, prefix, 0, wrapped === null)
  if (problem !== null) return problem
  return reading.metrics.length === 0 ? 'the reading holds no value' : reading
}

/** The content of `values`, where that member is the shape's own and not a metric of that name. */
function wrappedValues(item: Report): Report | null {
  if (!isObject(item.values)) return null
  for (const name in item) if (name !== 'ts' && name !== 'values') return null
  return item.values
}

function start(context: Context, ts: Millis | null): Reading {
  return { device: context.device, ts, metrics: [], values: [] }
}

function addMembers(reading: Reading, members: Report, prefix: string, depth: number, skipTs: boolean) {
  if (depth > limits.maxDepth) return `values are nested more than ${limits.maxDepth} levels deep`
  for (const name in members) {
    if (skipTs && name === 'ts') continue
    const problem = addMember(reading, prefix === '' ? name : prefix + name, members[name], depth)
    if (problem !== null) return problem
  }
  return null
}

function addMember(reading: Reading, metric: string, content: unknown, depth: number): string | null {
  if (typeof content === 'number' || typeof content === 'string' || typeof content === 'boolean') {
    return addValue(reading, metric, content)
  }
  if (content === null) return null
  if (Array.isArray(content)) return addArray(reading, metric, content)
  return addMembers(reading, content as Report, `${metric}.`, depth + 1, false)
}

function addArray(reading: Reading, metric: string, items: unknown[]): string | null {
  try {
    return addValue(reading, metric, JSON.stringify(items))
  } catch {
    // JSON that is nested some thousand levels deep can be read, but not written again.
    return `the array "${metric}" is nested too deeply`
  }
}

function addValue(reading: Reading, metric: string, value: Value): string | null {
  if (!isKnownGood(metric)) {
    const problem = metricProblem(metric)
    if (problem !== null) return problem
    remember(metric)
  }
  if (typeof value === 'string') {
    const problem = textProblem(metric, value)
    if (problem !== null) return problem
  } else if (typeof value === 'number' && !Number.isFinite(value)) {
    return `the value of "${metric}" is too large for a number`
  }
  // `{"a.b":1,"a":{"b":2}}` names one metric twice: the later one counts, as with twice the same key in JSON.
  const known = metric.includes('.') ? reading.metrics.indexOf(metric) : -1
  if (known >= 0) {
    reading.values[known] = value
    return null
  }
  if (reading.metrics.length >= limits.maxValues) return `a reading holds at most ${limits.maxValues} values`
  reading.metrics.push(metric)
  reading.values.push(value)
  return null
}

// The same few names come again and again; testing each with a regular expression took a quarter of the decoding.
const goodNames = new Set<string>()
const maxGoodNames = 10_000

function isKnownGood(metric: string): boolean {
  return goodNames.has(metric)
}

function remember(metric: string): void {
  if (goodNames.size >= maxGoodNames) goodNames.clear()
  goodNames.add(metric)
}

const byteOrderMark = 0xfeff

function isObject(content: unknown): content is Report {
  return typeof content === 'object' && content !== null && !Array.isArray(content)
}

/** The content of a JSON text, or `undefined`. A byte order mark is no part of it (RFC 8259 §8.1). */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text.charCodeAt(0) === byteOrderMark ? text.slice(1) : text)
  } catch {
    return undefined
  }
}

function notJson(text: string): string {
  return text.trim() === '' ? 'the payload is empty' : 'the payload is not valid JSON'
}

function rejectAll(payload: string, reason: string): Decoded {
  return { readings: [], rejected: [{ item: 1, payload, reason }] }
}
