import { describe, expect, test } from 'vitest'
import { createFeed, earliest, noEntries } from '../src/feed.ts'
import { createRecordBuilder } from '../src/store/record.ts'
import type { LogQuery } from '../src/store/store.ts'

const names = { device: (id: number) => `d${id}`, metric: (id: number) => `m${id}` }
const nothing = async ({ after }: LogQuery) => ({ ...noEntries, next: after, oldest: 1 })

function commit(first: number, device: number, count: number) {
  const builder = createRecordBuilder()
  for (let i = 0; i < count; i++)
    builder.add(device, 1_700_000_000_000, 1_700_000_000_000 + first + i, false, [1], [first + i])
  return { first, count, records: builder.take() }
}

describe('a reader of the feed', () => {
  test('hears how far it has come while only readings pass that its filter leaves out', async () => {
    const feed = createFeed({ readLog: nothing }, names, 1)
    const aborter = new AbortController()
    const query = { after: 1, limit: 100, filter: { devices: ['d2'], metrics: [] } }
    const pages = feed.follow(query, { signal: aborter.signal, heartbeat: 20 })
    let end = 1
    const traffic = setInterval(() => {
      feed.push(commit(end, 1, 10))
      end += 10
    }, 2)
    const seen: number[] = []
    for await (const page of pages) {
      expect(page.ends).toEqual([])
      seen.push(page.next)
      if (seen.length === 3) break
    }
    clearInterval(traffic)
    aborter.abort()
    expect(seen[2]).toBeGreaterThan(seen[0] as number)
  })

  test('never sees a commit that is on disk and not announced yet', async () => {
    const asked: LogQuery[] = []
    const store = {
      readLog: async (query: LogQuery) => {
        asked.push(query)
        return { ...noEntries, next: query.before, oldest: 1 }
      },
    }
    const feed = createFeed(store, names, 7)
    const page = await feed.read({ after: earliest, limit: 10, filter: { devices: [], metrics: [] } })
    expect(asked[0]?.before).toBe(7)
    expect(page.next).toBe(7)
    expect(page.caughtUp).toBe(true)
  })

  test('that follows is told its place when the feed closes', async () => {
    const feed = createFeed({ readLog: nothing }, names, 1)
    const pages = feed.follow(
      { after: 1, limit: 10, filter: { devices: [], metrics: [] } },
      { signal: new AbortController().signal, heartbeat: 60_000 },
    )
    feed.push(commit(1, 1, 5))
    const first = await pages.next()
    expect(first.value?.next).toBe(6)
    const last = pages.next()
    const closed = feed.close()
    expect((await last).value?.next).toBe(6)
    expect((await pages.next()).done).toBe(true)
    await closed
  })
})
