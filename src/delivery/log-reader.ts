import type { Feed, FeedPage } from '../feed.ts'
import { readingsOf } from '../store/entries.ts'
import type { Filter } from '../store/filter.ts'
import type { Offset } from '../store/store.ts'

/** A reading of the log, as JSON. */
export type Entry = [offset: Offset, reading: string]

/** A stretch of the log, exclusive of `to`. */
interface Stretch {
  from: Offset
  to: Offset
}

/** The log as a consumer reads it: what is new, and what was delivered before. */
export function createLogReader(feed: Feed) {
  return {
    /** What comes after a place, and if that is no longer kept, what comes after the oldest place that is. */
    async next(after: Offset, limit: number, filter: Filter): Promise<FeedPage> {
      const page = await feed.read({ after, limit, filter })
      if (page.oldest <= after) return page
      const oldest = await feed.read({ after: page.oldest, limit, filter })
      return { ...oldest, oldest: Math.max(page.oldest, oldest.oldest) }
    },
    /**
     * What the log still holds of a stretch, up to a full page; `to` is how far that goes. The devices of the filter
     * counted when it was delivered first, and may be others by now.
     */
    async again({ from, to }: Stretch, metrics: readonly string[]) {
      const page = await feed.read({ after: from, limit: to - from, filter: { devices: [], metrics } })
      const reached = page.oldest > from ? page.oldest : page.next
      return {
        entries: readingsOf(page).filter(([offset]) => offset < to),
        to: reached > from ? Math.min(to, reached) : to,
        bytes: page.text.length,
      }
    },
  }
}

export function entriesOf(entries: readonly Entry[], { from, to }: Stretch): Entry[] {
  return entries.filter(([offset]) => offset >= from && offset < to)
}

/** The stretches that entries are, in their order. */
export function stretchesOf(entries: readonly Entry[]): Stretch[] {
  const stretches: Stretch[] = []
  for (const [offset] of entries) {
    const last = stretches.at(-1)
    if (last?.to === offset) last.to++
    else stretches.push({ from: offset, to: offset + 1 })
  }
  return stretches
}
