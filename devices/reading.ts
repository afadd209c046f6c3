/** Milliseconds since the Unix epoch, UTC; always an integer. */
export type Millis = number

/** A finite number, a boolean, or a string of at most `maxStringBytes` in UTF-8. */
export type Value = number | boolean | string

/**
 * What one device measured at one instant; metrics and values as two parallel arrays, because a message a hundred
 * thousand times a second must not build an object with new keys each time.
 */
export interface Reading {
  device: string
  /** `null`: the device sent no time, the hub stamps the arrival. */
  ts: Millis | null
  metrics: string[]
  values: Value[]
}

/** A part of a message that cannot be stored, as it arrived and with what is wrong with it. */
export interface Rejection {
  /** Which item of the message, counted from 1; a message that is a single item has only one. */
  item: number
  /** Text, or the bytes where they are no text. */
  payload: string | Uint8Array
  reason: string
}

/** What a message turned out to hold. Every item of it is in exactly one of the two lists. */
export interface Decoded {
  readings: Reading[]
  rejected: Rejection[]
}

export const limits = {
  maxNameLength: 128,
  maxStringBytes: 4096,
  /** Values in one reading; wider devices split their report. */
  maxValues: 1024,
  /** Levels of nested objects that are flattened to `a.b.c`. */
  maxDepth: 16,
  /** Readings in one message; a back-fill is sent in several. */
  maxReadings: 10_000,
  /** Bad items of one message that are kept one by one; with more of them the message is kept as it came. */
  maxRejected: 100,
} as const

// A device id is one level of an MQTT topic: no separators, no wildcards, nothing invisible.
const notInDevice = /[/+#\p{Cc}]/u
const notInMetric = /\p{Cc}/u

/** What is wrong with a device id, or `null`. */
export function deviceProblem(device: unknown): string | null {
  if (device === undefined || device === '') return 'the device id is missing'
  if (typeof device !== 'string') return 'the device id must be a text'
  if (isTooLong(device)) return `the device id is longer than ${limits.maxNameLength} characters`
  // Both stand for other addresses in a URL, so that nobody could ask for the device.
  if (device === '.' || device === '..') return `a device must not be called "${device}"`
  if (notInDevice.test(device)) return 'a device id must not hold "/", "+", "#" or control characters'
  if (!device.isWellFormed()) return 'the device id is not valid Unicode'
  return null
}

/** What is wrong with the name of a metric, or `null`. */
export function metricProblem(metric: string): string | null {
  if (metric === '') return 'the name of a metric is empty'
  if (isTooLong(metric)) {
    return `the metric "${metric.slice(0, 32)}…" has a name longer than ${limits.maxNameLength} characters`
  }
  if (notInMetric.test(metric)) return 'the name of a metric holds control characters'
  // The one name that a JSON object cannot carry safely to every reader.
  if (metric === '__proto__') return 'a metric must not be named "__proto__"'
  if (!metric.isWellFormed()) return 'the name of a metric is not valid Unicode'
  return null
}

// A character is a code point, as a person counts them, not a unit of UTF-16.
function isTooLong(name: string): boolean {
  return name.length > limits.maxNameLength && [...name].length > limits.maxNameLength
}

/** What is wrong with the text of a value, or `null`. */
export function textProblem(metric: string, text: string): string | null {
  // Four bytes a UTF-16 unit is more than UTF-8 ever takes, so short texts need no count.
  if (text.length * 4 > limits.maxStringBytes && utf8Length(text) > limits.maxStringBytes) {
    return `the text of "${metric}" is longer than ${limits.maxStringBytes} bytes`
  }
  if (!text.isWellFormed()) return `the text of "${metric}" is not valid Unicode`
  return null
}

function utf8Length(text: string): number {
  let bytes = 0
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0
    bytes += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4
  }
  return bytes
}
