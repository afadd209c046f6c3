import { describe, expect, test } from 'vitest'
import type { Value } from '../../devices/reading.ts'
import { beginPage, copyPage, createEntryBuffer, createEntryReaders, readingsOf } from '../../src/store/entries.ts'
import type { Filter } from '../../src/store/filter.ts'
import { createRecordBuilder } from '../../src/store/record.ts'

const t0 = 1_700_000_000_000
const devices = ['plain', 'with "quotes"', 'größe', '温度計', 'emoji 🌡️']
const metrics = ['temperature', 'a.b', 'say "hi"', 'Höhe', '湿度']
const values: Value[] = [
  0,
  -0,
  1,
  -17,
  21.5,
  -0.05,
  1e21,
  1.5e-9,
  0.1 + 0.2,
  Number.MAX_VALUE,
  Number.MIN_VALUE,
  Number.MAX_SAFE_INTEGER,
  true,
  false,
  '',
  'open',
  'line\nend "quoted" \\ \u0000',
  'ünïcode 温度 🌡️',
  '€'.repeat(1300),
]
const names = { device: (id: number) => devices[id] as string, metric: (id: number) => metrics[id] as string }
const entryReader = createEntryReaders(names)
const everything: Filter = { devices: [], metrics: [] }

interface Stored {
  device: string
  ts: number
  values: Record<string, Value>
  received: number
}

/** One commit with every value under every metric, and beside others. */
function commit() {
  const builder = createRecordBuilder()
  const stored: Stored[] = []
  const add = (device: number, given: [metric: number, value: Value][]): void => {
    const ts = t0 + stored.length * 7 - (stored.length % 3) * 1000
    const received = t0 + stored.length
    builder.add(
      device,
      received,
      ts,
      false,
      given.map(([metric]) => metric),
      given.map(([, value]) => value),
    )
    const named = given.map(([metric, value]) => [metrics[metric], value])
    stored.push({ device: devices[device] as string, ts, values: Object.fromEntries(named), received })
  }
  values.forEach((value, i) => {
    for (let metric = 0; metric < metrics.length; metric++) add((i + metric) % devices.length, [[metric, value]])
    add(i % devices.length, [
      [0, value],
      [3, 1.25],
      [4, 'text'],
    ])
  })
  return { records: builder.take(), stored }
}

/** All entries of a commit at offset 1, in pages of at most `limit`. */
function readAll(records: Uint8Array, filter: Filter, limit: number, buffer = createEntryBuffer()) {
  const read = entryReader(filter)
  const found: [number, string][] = []
  const texts: string[] = []
  for (let after = 1; ; ) {
    beginPage(buffer)
    const next = read({ first: 1, records }, after, limit, buffer)
    const entries = copyPage(buffer)
    if (entries.ends.length === 0) return { found, texts }
    expect(entries.ends.length).toBeLessThanOrEqual(limit)
    found.push(...readingsOf(entries))
    texts.push(Buffer.from(entries.text).toString())
    after = next
  }
}

describe('entries of the log', () => {
  const { records, stored } = commit()

  test.each([1, 7, 1000])('are what JSON.stringify makes of the readings, in pages of at most %i', (limit) => {
    const { found, texts } = readAll(records, everything, limit)
    expect(found).toEqual(stored.map((reading, i) => [i + 1, JSON.stringify(reading)]))
    expect(texts.flatMap((text) => JSON.parse(`[${text}]`))).toHaveLength(stored.length)
  })

  test('hold what a filter lets through, under the offsets that it has in the log', () => {
    const filter = { devices: ['größe', 'emoji*'], metrics: ['Höhe', 'a.*'] }
    const expected = stored.flatMap((reading, i) => {
      if (reading.device !== 'größe' && !reading.device.startsWith('emoji')) return []
      const kept = Object.entries(reading.values).filter(([metric]) => metric === 'Höhe' || metric.startsWith('a.'))
      return kept.length === 0 ? [] : [[i + 1, JSON.stringify({ ...reading, values: Object.fromEntries(kept) })]]
    })
    expect(expected.length).toBeGreaterThan(10)
    expect(readAll(records, filter, 4).found).toEqual(expected)
  })

  test('are pages of a quarter of a megabyte or one reading more, however large that is', () => {
    const builder = createRecordBuilder()
    const texts = [...Array.from({ length: 100 }, () => 'x'.repeat(4000)), '€'.repeat(1_000_000), 'last']
    for (const text of texts) builder.add(0, t0, t0, false, [0], [text])
    const large = builder.take()
    const buffer = createEntryBuffer()
    const { found, texts: pages } = readAll(large, everything, 1000, buffer)
    expect(found.map(([, reading]) => JSON.parse(reading).values.temperature)).toEqual(texts)
    expect(pages.map(({ length }) => length > 256 * 1024)).toEqual([true, true, false])
    expect(buffer.bytes.length).toBeLessThan(1024 * 1024)
  })
})
