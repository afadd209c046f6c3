import type { Millis, Reading, Value } from '../../devices/reading.ts'

/*
 * The compact form of readings: what crosses threads, and what a row of the log holds.
 *
 *   header    version (1 byte), base (float64, little-endian): the arrival of the first reading
 *   record    device · values << 1 | stamped · zigzag(received - base) · zigzag(ts - received) · value …
 *   value     metric << 4 | form, then what the form says
 *
 * All numbers without a size are varints (LEB128). Devices and metrics are the numbers of the store's
 * dictionary. Three metrics take about 20 bytes, where the JSON they came from takes 97.
 */
const version = 1
const headerBytes = 9

const form = { float: 0, integer: 1, tenths: 2, hundredths: 3, thousandths: 4, no: 5, yes: 6, text: 7 } as const
const scales = [0, 1, 10, 100, 1000] as const
// Beyond this a zigzag number would lose its last bit in a double.
const maxScaled = 2 ** 51

/** Collects records until `take` hands them over. One builder serves for ever. */
export function createRecordBuilder(initialBytes = 64 * 1024) {
  let bytes = Buffer.allocUnsafeSlow(initialBytes)
  let at = headerBytes
  let count = 0
  let base: Millis = 0

  function reserve(more: number): void {
    if (at + more <= bytes.length) return
    const larger = Buffer.allocUnsafeSlow(Math.max(bytes.length * 2, at + more))
    bytes.copy(larger, 0, 0, at)
    bytes = larger
  }

  function varint(value: number): void {
    while (value >= 0x80000000) {
      bytes[at++] = (value % 128) | 0x80
      value = Math.floor(value / 128)
    }
    while (value > 0x7f) {
      bytes[at++] = (value & 0x7f) | 0x80
      value >>>= 7
    }
    bytes[at++] = value
  }

  function add(
    device: number,
    received: Millis,
    ts: Millis,
    stamped: boolean,
    metrics: number[],
    values: Reading['values'],
  ): void {
    if (count === 0) base = received
    reserve(40)
    varint(device)
    varint(metrics.length * 2 + (stamped ? 1 : 0))
    varint(zigzag(received - base))
    varint(zigzag(ts - received))
    for (let i = 0; i < metrics.length; i++) addValue(metrics[i] as number, values[i] as Value)
    count++
  }

  function addValue(metric: number, value: Value): void {
    reserve(20)
    if (typeof value === 'number') return addNumber(metric, value)
    if (typeof value === 'boolean') return varint(metric * 16 + (value ? form.yes : form.no))
    const length = Buffer.byteLength(value)
    reserve(20 + length)
    varint(metric * 16 + form.text)
    varint(length)
    at += bytes.write(value, at)
  }

  function addNumber(metric: number, value: number): void {
    for (let scaled = form.integer; scaled <= form.thousandths; scaled++) {
      const scale = scales[scaled] as number
      const whole = Math.round(value * scale)
      if (whole / scale === value && Math.abs(whole) < maxScaled) {
        varint(metric * 16 + scaled)
        varint(zigzag(whole))
        return
      }
    }
    varint(metric * 16 + form.float)
    bytes.writeDoubleLE(value, at)
    at += 8
  }

  return {
    add,
    get count() {
      return count
    },
    get size() {
      return at
    },
    /** The bytes so far, as a copy with a buffer of its own; the builder starts afresh. */
    take(): Uint8Array<ArrayBuffer> {
      bytes[0] = version
      bytes.writeDoubleLE(base, 1)
      const taken = new Uint8Array(bytes.subarray(0, at))
      at = headerBytes
      count = 0
      return taken
    },
  }
}

function zigzag(value: number): number {
  return value >= 0 ? value * 2 : value * -2 - 1
}

// Without a remainder, which is slow for numbers beyond 31 bits, such as most times of a file that is sent late.
function unzigzag(value: number): number {
  const half = Math.floor(value / 2)
  return half * 2 === value ? half : -half - 1
}

/** One record at a time out of bytes made by the builder; the fields hold the current one until `next`. */
export interface RecordReader {
  device: number
  received: Millis
  ts: Millis
  stamped: boolean
  /** How many of `metrics` and `values` belong to this record: the arrays are reused and may be longer. */
  size: number
  metrics: number[]
  values: Value[]
  /** Where the record lies in the bytes. */
  start: number
  end: number
  /** False when there are no more. */
  next(): boolean
}

/** Reads records. Throws when the bytes are not what the builder writes: that is a damaged file. */
export function createRecordReader(data: Uint8Array): RecordReader {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength)
  if (bytes[0] !== version) throw new Error(`a record of the log has the unknown version ${bytes[0]}`)
  const base = bytes.readDoubleLE(1)
  let at = headerBytes

  function varint(): number {
    let byte = bytes[at++] as number
    if (byte < 0x80) return byte
    let value = byte & 0x7f
    let scale = 128
    do {
      if (at >= bytes.length) throw new Error('a record of the log ends in the middle')
      byte = bytes[at++] as number
      value += (byte & 0x7f) * scale
      scale *= 128
    } while (byte >= 0x80)
    return value
  }

  function readValue(kind: number): Value {
    switch (kind) {
      case form.no:
        return false
      case form.yes:
        return true
      case form.float:
        at += 8
        return bytes.readDoubleLE(at - 8)
      case form.text: {
        const length = varint()
        at += length
        return bytes.toString('utf8', at - length, at)
      }
      case form.integer:
        return unzigzag(varint())
      default:
        return unzigzag(varint()) / (scales[kind] as number)
    }
  }

  const reader: RecordReader = {
    device: 0,
    received: 0,
    ts: 0,
    stamped: false,
    size: 0,
    metrics: [],
    values: [],
    start: at,
    end: at,
    next() {
      if (at >= bytes.length) return false
      reader.start = at
      reader.device = varint()
      const head = varint()
      reader.stamped = head % 2 === 1
      reader.size = (head - (head % 2)) / 2
      reader.received = base + unzigzag(varint())
      reader.ts = reader.received + unzigzag(varint())
      for (let i = 0; i < reader.size; i++) {
        const key = varint()
        const kind = key % 16
        reader.metrics[i] = (key - kind) / 16
        reader.values[i] = readValue(kind)
      }
      reader.end = at
      return true
    },
  }
  return reader
}

/** The same bytes without the records that lie in `dropped` (pairs of start and end, in order). */
export function withoutRecords(data: Uint8Array, dropped: readonly (readonly [number, number])[]): Uint8Array {
  const kept: Uint8Array[] = []
  let from = 0
  for (const [start, end] of dropped) {
    kept.push(data.subarray(from, start))
    from = end
  }
  kept.push(data.subarray(from))
  return Buffer.concat(kept)
}
