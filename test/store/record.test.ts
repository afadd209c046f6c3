import { describe, expect, test } from 'vitest'
import type { Value } from '../../devices/reading.ts'
import { createRecordBuilder, createRecordReader, withoutRecords } from '../../src/store/record.ts'
import { createRandom, type Random } from '../random.ts'

interface Plain {
  device: number
  received: number
  ts: number
  stamped: boolean
  metrics: number[]
  values: Value[]
}

const someValues: ((random: Random) => Value)[] = [
  (random) => random.integer(-1000, 1000),
  (random) => random.integer(-(2 ** 31), 2 ** 31) * 1000,
  (random) => random.integer(-100_000, 100_000) / 10,
  (random) => random.integer(-100_000, 100_000) / 1000,
  (random) => (random.next() - 0.5) * 10 ** random.integer(-300, 300),
  (random) => random.next() < 0.5,
  (random) => random.pick(['', 'open', 'geöffnet', '𝄞', '"\\\n', 'x'.repeat(4096)]),
  (random) =>
    random.pick([
      Number.MAX_SAFE_INTEGER,
      Number.MIN_SAFE_INTEGER,
      Number.MAX_VALUE,
      Number.MIN_VALUE,
      0,
      2 ** 51,
      -(2 ** 51),
    ]),
]

function someRecords(random: Random): Plain[] {
  const now = 1_700_000_000_000
  return Array.from({ length: random.integer(1, 200) }, (_, i) => {
    const size = random.integer(0, 12)
    return {
      device: random.integer(1, 2_000_000),
      received: now + i * random.integer(0, 5),
      ts: random.pick([now, now - random.integer(0, 10 ** 11), now + random.integer(0, 86_400_000), 946_684_800_000]),
      stamped: random.next() < 0.5,
      metrics: Array.from({ length: size }, () => random.integer(1, 100_000)),
      values: Array.from({ length: size }, () => random.pick(someValues)(random)),
    }
  })
}

function build(records: Plain[]): Uint8Array {
  const builder = createRecordBuilder(16)
  for (const { device, received, ts, stamped, metrics, values } of records) {
    builder.add(device, received, ts, stamped, metrics, values)
  }
  expect(builder.count).toBe(records.length)
  return builder.take()
}

function read(bytes: Uint8Array): Plain[] {
  const reader = createRecordReader(bytes)
  const records: Plain[] = []
  while (reader.next()) {
    const { device, received, ts, stamped, size, metrics, values } = reader
    records.push({ device, received, ts, stamped, metrics: metrics.slice(0, size), values: values.slice(0, size) })
  }
  return records
}

describe('records', () => {
  test('come back as they were', () => {
    for (let seed = 1; seed <= 200; seed++) {
      const records = someRecords(createRandom(seed))
      expect(read(build(records)), `seed ${seed}`).toEqual(records)
    }
  })

  test('can be taken out, and the others stay as they are', () => {
    const random = createRandom(7)
    const records = someRecords(random)
    const bytes = build(records)
    const reader = createRecordReader(bytes)
    const dropped: [number, number][] = []
    const kept: Plain[] = []
    for (let i = 0; reader.next(); i++) {
      if (random.next() < 0.3) dropped.push([reader.start, reader.end])
      else kept.push(records[i] as Plain)
    }
    expect(read(withoutRecords(bytes, dropped))).toEqual(kept)
  })

  test('of an unknown version are refused, and so are torn ones', () => {
    const bytes = build(someRecords(createRandom(3)))
    const other = Uint8Array.from(bytes)
    other[0] = 99
    expect(() => createRecordReader(other)).toThrow('unknown version 99')
    // A record that ends inside a number.
    expect(() => read(Uint8Array.from([...bytes.subarray(0, 9), 0xff, 0xff]))).toThrow('ends in the middle')
  })
})
