import {
  beginPage,
  copyPage,
  createEntryBuffer,
  createEntryReaders,
  type Entries,
  isFullPage,
  type Names,
} from './store/entries.ts'
import { keyOf } from './store/filter.ts'
import type { LogPage, LogQuery, Offset } from './store/store.ts'
import { createTail } from './tail.ts'
import type { Committed } from './writer.ts'

/** Where a reader begins when it has no cursor: at the oldest reading that is kept. */
export const earliest: Offset = 0

export interface PageContent extends LogPage {
  /** There was nothing more when the page was made. */
  caughtUp: boolean
}

export type Encode = (page: PageContent) => Buffer

export interface FeedPage extends PageContent {
  /** As it goes over the wire, made once for all who read the same in the same way. */
  encoded(encode: Encode): Buffer
}

interface FollowOptions {
  signal: AbortSignal
  /** After so many milliseconds without a reading, an empty page tells the cursor. */
  heartbeat: number
}

/** What a reader asks for; the feed knows by itself where the log ends. */
export interface FeedQuery extends Omit<LogQuery, 'before'> {
  /** On whose behalf the log on disk is read; without it, the hub's own. */
  reader?: string
}

/** The log on disk. */
export interface LogOnDisk {
  readLog(query: LogQuery, reader: string): Promise<LogPage>
}

/**
 * The log as everybody reads it. Replay and live are the same: a reader asks for what comes after its place, and
 * waits for the bell when there is nothing. Nobody has a queue; who is slow is behind in the log.
 */
export interface Feed {
  /** One past the last reading. */
  readonly end: Offset
  /** What comes after a place. A page whose `oldest` is beyond the place says that it is no longer kept. */
  read(query: FeedQuery): Promise<FeedPage>
  /** Page after page, for ever; ends when the feed closes or the signal is aborted, or with a place that is gone. */
  follow(query: FeedQuery, options: FollowOptions): AsyncGenerator<FeedPage, void, void>
  /** Resolves when there may be something at `after`, after `millis`, or when it is no use to wait. */
  wait(after: Offset, millis: number, signal: AbortSignal): Promise<void>
  /** What the writer committed. */
  push(committed: Committed): void
  readonly followers: number
  readonly closed: boolean
  /** Wakes everybody for the last time; resolves when the last follower has left. */
  close(): Promise<void>
}

/** What a page without readings says. */
export const noEntries: Entries = { text: new Uint8Array(0), ends: [], offsets: [] }

/**
 * The newest commits stay in memory, so that live readers cost the disk nothing: those of 80 ms at 100,000 readings/s.
 * Not more of them, as whoever replays the log comes through here, and then it is this thread that makes the pages.
 */
const tailLimits = { maxReadings: 8_000, maxBytes: 8 * 1024 * 1024 }
/**
 * While readings pour in, the bell rings at most so often: each ring costs all who wait a frame or a look. That takes about
 * 15 µs here, so up to 500 of them together get a seventh of this thread, and devices keep the rest.
 */
const ringMillis = 4
const ringMillisPerReader = 0.1
const maxRingMillis = 50
const maxPages = 32
/** Bytes of the log that one reader goes through in a turn, so that others get theirs: a few milliseconds. */
const maxStepBytes = 512 * 1024

export function createFeed(store: LogOnDisk, names: Names, firstEnd: Offset): Feed {
  const tail = createTail(tailLimits)
  const entries = createEntryBuffer()
  let end = firstEnd
  let closed = false
  let followers = 0
  let onEmpty = (): void => {}
  // Readers with the same filter at the same place get the same page.
  const pages = new Map<string, FeedPage>()
  const entryReader = createEntryReaders(names)
  const bell = createBell()

  function push(committed: Committed): void {
    tail.push(committed)
    end = committed.first + committed.count
    pages.clear()
    bell.ring()
  }

  async function read(query: FeedQuery): Promise<FeedPage> {
    if (query.after >= end) return pageOf({ ...noEntries, next: end, oldest: 0 })
    if (tail.holds(query.after)) return readTail(query)
    const { reader = '', ...asked } = query
    // Reader threads may see a commit before this thread has heard of it.
    return pageOf(await store.readLog({ ...asked, before: end }, reader))
  }

  function readTail(query: FeedQuery): FeedPage {
    const { after, limit, filter } = query
    const key = `${after} ${limit} ${keyOf(filter)}`
    const known = pages.get(key)
    if (known) return known
    const readEntries = entryReader(filter)
    beginPage(entries)
    let next = after
    let bytes = 0
    for (const commit of tail.from(after)) {
      next = readEntries(commit, after, limit, entries)
      bytes += commit.records.length
      if (isFullPage(entries, limit) || bytes >= maxStepBytes) break
    }
    const made = pageOf({ ...copyPage(entries), next, oldest: 0 })
    if (pages.size >= maxPages) pages.clear()
    pages.set(key, made)
    return made
  }

  function pageOf(page: LogPage): FeedPage {
    const made = new Map<Encode, Buffer>()
    return {
      ...page,
      caughtUp: page.next >= end,
      encoded(encode) {
        const known = made.get(encode)
        if (known) return known
        const bytes = encode(this)
        made.set(encode, bytes)
        return bytes
      },
    }
  }

  async function* follow(query: FeedQuery, { signal, heartbeat }: FollowOptions): AsyncGenerator<FeedPage, void, void> {
    let after = query.after
    let lastWord = performance.now()
    followers++
    try {
      while (!signal.aborted) {
        const page = await read({ ...query, after })
        if (signal.aborted) return
        const gone = page.oldest > after && after !== earliest
        after = page.next
        // Also while readings pass that the filter leaves out, the reader hears how far it has come; and where it is
        // when the hub stops.
        if (page.ends.length > 0 || gone || closed || performance.now() - lastWord >= heartbeat) {
          lastWord = performance.now()
          yield page
        }
        if (gone || closed) return
        if (page.caughtUp) await wait(after, Math.max(1, heartbeat - (performance.now() - lastWord)), signal)
        else await nextTurn()
      }
    } finally {
      followers--
      if (followers === 0) onEmpty()
    }
  }

  async function wait(after: Offset, millis: number, signal: AbortSignal): Promise<void> {
    if (after < end || closed || signal.aborted) return
    await bell.wait(millis, signal)
  }

  return {
    get end() {
      return end
    },
    get followers() {
      return followers
    },
    get closed() {
      return closed
    },
    read,
    follow,
    wait,
    push,
    close() {
      closed = true
      bell.ringNow()
      return new Promise((resolve) => {
        onEmpty = resolve
        if (followers === 0) resolve()
      })
    },
  }
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

/** A bell without data: whoever waits is woken and looks for himself. */
function createBell() {
  const waiting = new Set<() => void>()
  let scheduled = false
  let lastRing = 0

  function ringNow(): void {
    scheduled = false
    lastRing = performance.now()
    const woken = [...waiting]
    waiting.clear()
    for (const wake of woken) wake()
  }

  return {
    ring(): void {
      if (scheduled || waiting.size === 0) return
      scheduled = true
      const apart = Math.min(Math.max(ringMillis, waiting.size * ringMillisPerReader), maxRingMillis)
      const pause = apart - (performance.now() - lastRing)
      if (pause > 0) setTimeout(ringNow, pause)
      else setImmediate(ringNow)
    },
    ringNow,
    wait(millis: number, signal: AbortSignal): Promise<void> {
      return new Promise((resolve) => {
        const timer = setTimeout(finish, millis)
        function finish(): void {
          clearTimeout(timer)
          waiting.delete(finish)
          signal.removeEventListener('abort', finish)
          resolve()
        }
        waiting.add(finish)
        signal.addEventListener('abort', finish)
      })
    },
  }
}
