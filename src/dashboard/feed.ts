import { type Reading, Refused, readCursor } from './api.ts'

export type FeedState = 'connecting' | 'live' | 'reconnecting' | 'offline'

export interface FeedOptions {
  /**
   * There is no cursor to go on from, at the start or because the hub no longer knows it: everything is to be pulled.
   * The cursor was taken before, so what arrives while this pulls comes by the feed, perhaps a second time.
   */
  pull(): Promise<void>
  onReadings(readings: Reading[]): void
  /** The hub wants to know who asks; `retry` goes on. */
  onUnknown(): void
  onState(state: FeedState, cause: Error | null): void
}

/** The hub sends a heartbeat every 15 s: who hears nothing for so long has a dead connection. */
const silenceMillis = 40_000
/** After a longer break it costs less to pull everything than to replay what all devices said. */
const maxReplayMillis = 5 * 60_000
/** A tab that nobody sees lets go of the feed: a browser has six connections for a host. */
const hiddenMillis = 60_000
const firstPauseMillis = 300
const maxPauseMillis = 8000
const attemptsBeforeOffline = 3

/**
 * Follows the feed for ever. It opens each stream itself, from the last cursor that it heard, as the retry built into
 * `EventSource` tells no status: a cursor that is gone would look like a hub that is.
 */
export function startFeed(options: FeedOptions): { retry(): void } {
  let cursor: string | null = null
  let heard = 0
  let failures = 0
  let wake = () => {}

  async function run(): Promise<never> {
    options.onState('connecting', null)
    for (;;) {
      let cause: Error | null = null
      try {
        await connect()
      } catch (error) {
        cause = error as Error
      }
      failures++
      // Nothing changes until somebody signs in.
      if (cause instanceof Refused && cause.status === 401) {
        options.onUnknown()
        await pause(null)
        continue
      }
      const offline = failures >= attemptsBeforeOffline || !navigator.onLine
      options.onState(offline ? 'offline' : 'reconnecting', cause)
      await pause(Math.min(firstPauseMillis * 2 ** (failures - 1), maxPauseMillis))
      await untilVisible()
    }
  }

  async function connect(): Promise<void> {
    if (cursor !== null && (Date.now() - heard > maxReplayMillis || (await isGone(cursor)))) cursor = null
    if (cursor === null) {
      const fresh = await readCursor()
      await options.pull()
      cursor = fresh
    }
    await follow(cursor)
  }

  /** Resolves when the stream has ended. */
  function follow(after: string): Promise<void> {
    return new Promise((resolve) => {
      const source = new EventSource(`/v1/feed?${new URLSearchParams({ after })}`)
      let silence = setTimeout(end, silenceMillis)
      let hidden: ReturnType<typeof setTimeout> | undefined

      function end(): void {
        clearTimeout(silence)
        clearTimeout(hidden)
        document.removeEventListener('visibilitychange', watchVisibility)
        source.close()
        resolve()
      }
      function watchVisibility(): void {
        clearTimeout(hidden)
        if (document.hidden) hidden = setTimeout(end, hiddenMillis)
      }
      function hear({ lastEventId }: MessageEvent): void {
        failures = 0
        cursor = lastEventId
        heard = Date.now()
        clearTimeout(silence)
        silence = setTimeout(end, silenceMillis)
      }

      source.addEventListener('open', () => options.onState('live', null))
      source.addEventListener('error', end)
      source.addEventListener('heartbeat', hear)
      source.addEventListener('readings', (event: MessageEvent<string>) => {
        hear(event)
        options.onReadings((JSON.parse(event.data) as { readings: Reading[] }).readings)
      })
      document.addEventListener('visibilitychange', watchVisibility)
      watchVisibility()
    })
  }

  /** `null`: until somebody wakes it. */
  function pause(millis: number | null): Promise<void> {
    return new Promise((resolve) => {
      const timer = millis === null ? undefined : setTimeout(resolve, millis)
      wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  addEventListener('online', () => wake())
  void run()
  return { retry: () => wake() }
}

/** 410: older than what is kept. 409 and 400: the hub was set up anew. */
async function isGone(cursor: string): Promise<boolean> {
  try {
    await readCursor(cursor)
    return false
  } catch (error) {
    if (error instanceof Refused && [400, 409, 410].includes(error.status)) return true
    throw error
  }
}

function untilVisible(): Promise<void> {
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden) return
      document.removeEventListener('visibilitychange', look)
      resolve()
    }
    document.addEventListener('visibilitychange', look)
    look()
  })
}
