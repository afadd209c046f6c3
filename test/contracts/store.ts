import { expect, test } from 'vitest'
import type { Reading, Value } from '../../devices/reading.ts'
import { emptyDelivery, type Outcome } from '../../devices/sink.ts'
import { createDictionary } from '../../src/dictionary.ts'
import type { HistoryQuery } from '../../src/history/query.ts'
import { readingsOf } from '../../src/store/entries.ts'
import type { HandshakeEntry, LogPage, Store } from '../../src/store/store.ts'
import { createWriter } from '../../src/writer.ts'
import { waitFor } from '../hub-process.ts'

/** Opens a store in a folder: the same folder again is the same store. */
export type OpenStore = (folder: string) => Promise<Store>

const everything = { devices: [], metrics: [] }

/** A store with the writer in front of it, as the hub uses it. */
function withWriter(store: Store) {
  const writer = createWriter(store, createDictionary(store.opened), () => {})
  return {
    store,
    push: (readings: Reading[], received = Date.now()): Promise<Outcome> =>
      new Promise((resolve) => {
        writer.accept({ ...emptyDelivery('test'), received, readings }, resolve)
      }),
    writer,
    async close() {
      await writer.close()
      await store.close()
    },
  }
}

function reading(device: string, ts: number | null, values: Record<string, Value>): Reading {
  return { device, ts, metrics: Object.keys(values), values: Object.values(values) }
}

const wholeHistory = (device: string): HistoryQuery => ({
  device,
  metrics: [],
  columns: null,
  from: null,
  to: null,
  order: 'asc',
  position: null,
  limit: 1_000_000,
  format: 'json',
  maxPoints: Number.POSITIVE_INFINITY,
  buckets: null,
})

async function history(store: Store, device: string, query: Partial<HistoryQuery> = {}) {
  const page = await store.history({ ...wholeHistory(device), ...query })
  if (page === null) return null
  const { readings, buckets } = JSON.parse(new TextDecoder().decode(page.body))
  return (readings ?? buckets) as { ts: number; values: Record<string, Value> }[]
}

const textsOf = (page: LogPage): string[] => readingsOf(page).map(([, reading]) => reading)

async function wholeLog(store: Store): Promise<{ device: string; ts: number; values: Record<string, Value> }[]> {
  const readings: string[] = []
  let after = 0
  for (;;) {
    const page = await store.readLog({ after, before: store.opened.end + 10_000_000, limit: 1000, filter: everything })
    readings.push(...textsOf(page))
    if (page.ends.length === 0) return readings.map((reading) => JSON.parse(reading))
    after = page.next
  }
}

/** What every store promises. `folder` gives each test one of its own. */
export function storeContract(open: OpenStore, folder: () => Promise<string>): void {
  const t0 = 1_700_000_000_000

  test('what was appended is in the log, in history and in latest, at once and after opening again', async () => {
    const where = await folder()
    let hub = withWriter(await open(where))
    await hub.push([reading('a', t0, { x: 1, on: true, text: 'ö' }), reading('b', t0 + 5, { x: -2.5 })])
    for (let round = 0; round < 2; round++) {
      expect(await history(hub.store, 'a')).toEqual([{ ts: t0, values: { x: 1, on: true, text: 'ö' } }])
      expect((await wholeLog(hub.store)).map(({ device, ts, values }) => ({ device, ts, values }))).toEqual([
        { device: 'a', ts: t0, values: { x: 1, on: true, text: 'ö' } },
        { device: 'b', ts: t0 + 5, values: { x: -2.5 } },
      ])
      const latest = await hub.store.latest({ after: '', limit: 10, devices: [], exact: false, metrics: ['x'] })
      expect(JSON.parse(`[${latest.entries}]`)).toEqual([
        { device: 'a', values: { x: { ts: t0, value: 1 } } },
        { device: 'b', values: { x: { ts: t0 + 5, value: -2.5 } } },
      ])
      expect(latest.next).toBeNull()
      const first = await hub.store.latest({ after: '', limit: 1, devices: [], exact: false, metrics: [] })
      expect(JSON.parse(first.entries)).toEqual({
        device: 'a',
        values: { x: { ts: t0, value: 1 }, on: { ts: t0, value: true }, text: { ts: t0, value: 'ö' } },
      })
      expect(first.next).toBe('a')
      await hub.close()
      hub = withWriter(await open(where))
    }
    await hub.close()
  })

  test('an identical reading is stored once: in one message, later, after sealing, and after opening again', async () => {
    const where = await folder()
    let hub = withWriter(await open(where))
    const same = reading('a', t0, { x: 1 })
    expect(await hub.push([same, same])).toMatchObject({ accepted: 1, duplicates: 1 })
    // Enough to fill a head, so that the first reading is in a block.
    const more = Array.from({ length: 5000 }, (_, i) => reading('a', t0 + 1 + i, { x: i }))
    expect(await hub.push(more)).toMatchObject({ accepted: 5000, duplicates: 0 })
    expect(await hub.push([same, ...more.slice(10, 20)])).toMatchObject({ accepted: 0, duplicates: 11 })
    await hub.close()
    hub = withWriter(await open(where))
    expect(await hub.push([same, ...more])).toMatchObject({ accepted: 0, duplicates: 5001 })
    expect(await history(hub.store, 'a')).toHaveLength(5001)
    expect(await wholeLog(hub.store)).toHaveLength(5001)
    await hub.close()
  })

  test('a reading with more or fewer values is another one', async () => {
    const hub = withWriter(await open(await folder()))
    await hub.push([reading('a', t0, { x: 1, y: 2 })])
    expect(await hub.push([reading('a', t0, { x: 1 })])).toMatchObject({ accepted: 1 })
    expect(await hub.push([reading('a', t0, { x: 1, y: 2, z: 3 })])).toMatchObject({ accepted: 1 })
    expect(await history(hub.store, 'a')).toEqual([{ ts: t0, values: { x: 1, y: 2, z: 3 } }])
    await hub.close()
  })

  test('a correction: the log keeps both, history shows the later one, and a redelivery of the first changes nothing', async () => {
    const hub = withWriter(await open(await folder()))
    await hub.push([reading('a', t0, { x: 1, y: 7 })])
    await hub.push([reading('a', t0, { x: 2 })])
    expect(await hub.push([reading('a', t0, { x: 1, y: 7 })])).toMatchObject({ accepted: 0, duplicates: 1 })
    expect(await history(hub.store, 'a')).toEqual([{ ts: t0, values: { x: 2, y: 7 } }])
    expect((await wholeLog(hub.store)).map(({ values }) => values)).toEqual([{ x: 1, y: 7 }, { x: 2 }])
    await hub.close()
  })

  test('late readings, before and after sealing, are found in their place', async () => {
    const hub = withWriter(await open(await folder()))
    const times = Array.from({ length: 9000 }, (_, i) => t0 + i * 1000)
    const late = times.filter((_, i) => i % 7 === 3)
    await hub.push(times.filter((_, i) => i % 7 !== 3).map((ts) => reading('a', ts, { x: ts - t0 })))
    for (let i = 0; i < late.length; i += 300) {
      await hub.push(
        late
          .slice(i, i + 300)
          .reverse()
          .map((ts) => reading('a', ts, { x: ts - t0 })),
      )
    }
    const rows = await history(hub.store, 'a')
    expect(rows?.map(({ ts }) => ts)).toEqual(times)
    expect(rows?.every(({ ts, values }) => values.x === ts - t0)).toBe(true)
    await hub.close()
  })

  test('stamps of a device are strictly increasing, also when many arrive in one millisecond and after opening again', async () => {
    const where = await folder()
    let hub = withWriter(await open(where))
    await hub.push(
      Array.from({ length: 50 }, (_, i) => reading('a', null, { i })),
      t0,
    )
    await hub.close()
    hub = withWriter(await open(where))
    await hub.push([reading('a', null, { i: 50 })], t0)
    const rows = await history(hub.store, 'a')
    expect(rows?.map(({ ts }) => ts)).toEqual(Array.from({ length: 51 }, (_, i) => t0 + i))
    await hub.close()
  })

  test('many devices with few readings each are sealed, merged and still all there after opening again', async () => {
    const where = await folder()
    let hub = withWriter(await open(where))
    const devices = 40
    const rounds = 9000
    for (let from = 0; from < rounds; from += 250) {
      const batch: Reading[] = []
      for (let n = from; n < from + 250; n++) {
        for (let d = 0; d < devices; d++) batch.push(reading(`d${d}`, t0 + n * 1000, { n, half: n / 2 }))
      }
      await hub.push(batch)
    }
    expect((await hub.store.figures()).unsealed).toBeLessThan(devices * rounds)
    for (let round = 0; round < 2; round++) {
      const rows = await history(hub.store, 'd17')
      expect(rows?.map(({ values }) => values.n)).toEqual(Array.from({ length: rounds }, (_, n) => n))
      const [bucket] = (await history(hub.store, 'd3', {
        buckets: {
          written: '100000s',
          interval: 100_000_000,
          aggregate: ['count', 'min', 'max', 'avg'],
          fill: 'none',
          timezone: null,
        },
      })) as unknown as { values: { n: { count: number } } }[]
      expect(bucket?.values.n.count).toBeGreaterThan(0)
      await hub.close()
      hub = withWriter(await open(where))
    }
    await hub.close()
  })

  test('open QoS 2 exchanges are remembered, ended ones are not', async () => {
    const where = await folder()
    let { store, close } = withWriter(await open(where))
    const batch = {
      records: null,
      count: 0,
      received: t0,
      newDevices: [],
      newMetrics: [],
      quarantine: [],
      consumers: [],
      notes: [],
    } as const
    const empty = { ...batch, newDevices: [], newMetrics: [], quarantine: [], consumers: [] }
    for (let i = 1; i <= 3000; i++) {
      const begun: HandshakeEntry = ['c', i, i * 7]
      await store.append({ ...empty, handshakes: i > 5 ? [begun, ['c', -i, 0]] : [begun] })
    }
    await store.append({
      ...empty,
      handshakes: [
        ['gone', 9, 1],
        ['gone', 0, 0],
        ['c', -2, 0],
      ],
    })
    await close()
    ;({ store, close } = withWriter(await open(where)))
    expect(store.opened.handshakes).toEqual([
      [
        'c',
        [
          [1, 7],
          [3, 21],
          [4, 28],
          [5, 35],
        ],
      ],
    ])
    await close()
  })

  test('the quarantine keeps what it is given, newest first, and forgets what is removed', async () => {
    const hub = withWriter(await open(await folder()))
    const rejected = [
      { item: 1, payload: '{"a":', reason: 'bad' },
      { item: 2, payload: Uint8Array.of(0xff, 0x00), reason: 'worse' },
    ]
    await new Promise((resolve) => hub.writer.accept({ ...emptyDelivery('o', 'd'), received: t0, rejected }, resolve))
    const [second, first] = await hub.store.quarantine({ before: null, limit: 10 })
    expect(first).toMatchObject({ origin: 'o', device: 'd', received: t0, reason: 'bad' })
    expect(Buffer.from(first?.payload ?? '').toString()).toBe('{"a":')
    expect([...(second?.payload ?? [])]).toEqual([0xff, 0x00])
    expect(await hub.store.removeQuarantined(first?.id as number)).toBe(true)
    expect(await hub.store.removeQuarantined(first?.id as number)).toBe(false)
    expect(await hub.store.quarantine({ before: null, limit: 10 })).toHaveLength(1)
    await hub.close()
  })

  test('forgetting takes old log readings, keeps history, and says where the log begins', async () => {
    const where = await folder()
    let hub = withWriter(await open(where))
    for (let i = 0; i < 20; i++) {
      await hub.push(
        Array.from({ length: 500 }, (_, j) => reading('a', t0 + i * 500 + j, { i, j })),
        t0 + i * 1000,
      )
    }
    await hub.store.forget({ logBefore: Date.now() + 1000, logBytes: Number.MAX_SAFE_INTEGER, historyBefore: 0 })
    const page = await hub.store.readLog({ after: 1, before: 1_000_000, limit: 10, filter: everything })
    expect(page.oldest).toBeGreaterThan(1)
    expect(page).toMatchObject({ ends: [], offsets: [] })
    expect(await history(hub.store, 'a')).toHaveLength(10_000)
    await hub.close()
    hub = withWriter(await open(where))
    expect(await history(hub.store, 'a')).toHaveLength(10_000)
    expect(hub.store.opened.end).toBe(10_001)
    await hub.store.forget({ logBefore: 0, logBytes: Number.MAX_SAFE_INTEGER, historyBefore: t0 + 1e9 })
    expect(await history(hub.store, 'a')).toEqual([])
    await hub.close()
  })

  test('what is forgotten for its age may have come a moment ago, or be a single reading', async () => {
    const hub = withWriter(await open(await folder()))
    await hub.push([reading('old', t0 - 1e9, { x: 1 }), reading('new', t0, { x: 2 })])
    const first = Date.now()
    await waitFor(() => Date.now() > first + 1)
    await hub.push([reading('new', t0 + 1, { x: 3 })])
    await hub.store.forget({ logBefore: first + 1, logBytes: Number.MAX_SAFE_INTEGER, historyBefore: t0 - 1e8 })
    expect(await history(hub.store, 'old')).toEqual([])
    expect(await history(hub.store, 'new')).toHaveLength(2)
    expect((await wholeLog(hub.store)).map(({ values }) => values)).toEqual([{ x: 3 }])
    await hub.close()
  })

  test('the log keeps to its size, however often the store is opened in between', async () => {
    const where = await folder()
    const limits = { logBefore: 0, logBytes: 20_000, historyBefore: 0 }
    const text = 'x'.repeat(1000)
    for (let run = 0; run < 5; run++) {
      const hub = withWriter(await open(where))
      for (let i = 0; i < 8; i++) await hub.push([reading('a', t0 + run * 8 + i, { text })])
      await hub.close()
    }
    const hub = withWriter(await open(where))
    expect((await hub.store.figures()).logBytes).toBeGreaterThan(40_000)
    await hub.store.forget(limits)
    expect((await hub.store.figures()).logBytes).toBeLessThanOrEqual(limits.logBytes)
    expect((await wholeLog(hub.store)).length).toBeLessThan(20)
    expect(await history(hub.store, 'a')).toHaveLength(40)
    await hub.close()
  })

  test('long texts are sealed before they fill memory', async () => {
    const hub = withWriter(await open(await folder()))
    const perPush = 1000
    for (let i = 0; i < 30; i++) {
      const texts = Array.from({ length: perPush }, (_, j) =>
        reading(`d${j % 500}`, t0 + i * perPush + j, { text: String(i * perPush + j).padEnd(4000, '.') }),
      )
      await hub.push(texts)
    }
    await waitFor(async () => (await hub.store.figures()).unsealed * 4000 < 80e6)
    expect(await history(hub.store, 'd7')).toHaveLength(60)
    await hub.close()
  })

  test('an unknown device has no history, a filter by metric leaves the others out', async () => {
    const hub = withWriter(await open(await folder()))
    await hub.push([reading('a', t0, { x: 1, y: 2 }), reading('a', t0 + 1, { y: 3 })])
    expect(await hub.store.history(wholeHistory('nobody'))).toBeNull()
    expect(await history(hub.store, 'a', { metrics: ['x'] })).toEqual([{ ts: t0, values: { x: 1 } }])
    const page = await hub.store.readLog({
      after: 0,
      before: 1_000_000,
      limit: 10,
      filter: { devices: ['a'], metrics: ['x'] },
    })
    expect(textsOf(page).map((reading) => JSON.parse(reading).values)).toEqual([{ x: 1 }])
    expect(page.next).toBe(3)
    await hub.close()
  })
}
