import { type FeedMode, modes } from './feed-modes.ts'
import { socketsCarryHeaders } from './feed-socket.ts'
import { type Page, type Reading, toPage } from './frame.ts'
import { ProblemError } from './problem.ts'
import { linkSignal, pause, pauseMillis } from './retry.ts'
import type { Transport } from './transport.ts'

export interface FeedOptions {
  /** A cursor, `earliest` or `latest`; `latest` unless told, in every mode. */
  after?: string
  /** How the readings travel; `sse` unless told. A cursor of one mode goes on in any other. */
  mode?: FeedMode
  /** Names or patterns with `*`. */
  device?: string | string[]
  metric?: string | string[]
  /** Readings of one batch, at most 10 000; 1000 unless told. */
  limit?: number
  /** In mode `poll`: between two requests once everything has been read. 5 s unless told. */
  intervalMillis?: number
  /** Yields heartbeats too, as batches without readings: for who stores cursors and filters for something rare. */
  heartbeats?: boolean
  /** Without a word for so long a connection counts as dead. 45 s unless told: the hub sends a heartbeat every 15 s. */
  silenceMillis?: number
  /** Ends the loop, without an error. */
  signal?: AbortSignal
}

/** Store the cursor with what was made of the readings, and the next run goes on exactly after them. */
export interface FeedBatch {
  readings: Reading[]
  cursor: string
}

/** Three heartbeats of the hub. */
const defaultSilenceMillis = 45_000
/** The hub's own. */
const defaultLimit = 1000
const defaultIntervalMillis = 5_000

/**
 * The feed from a place, for ever: each reading once, in the order of the log, across cuts and restarts. Reads on only
 * when the next batch is asked for. Ends when the signal is aborted; throws a `ProblemError` when the hub refuses for
 * good, such as a cursor that is gone.
 */
export async function* readFeed(
  transport: Transport,
  options: FeedOptions = {},
): AsyncGenerator<FeedBatch, void, void> {
  const { signal, silenceMillis = defaultSilenceMillis, mode = 'sse' } = options
  const open = modes[mode]
  // Not sent and refused: the hub would answer 401 to whoever asks for this mode, and nobody would know why.
  if (mode === 'websocket' && transport.token !== undefined && !socketsCarryHeaders()) {
    throw new TypeError('a WebSocket of a browser cannot carry a token: choose another mode')
  }
  let cursor = options.after ?? 'latest'
  let failures = 0

  while (!signal?.aborted) {
    const { controller, release } = linkSignal(signal)
    let cause: unknown = null
    try {
      // "Latest" is a place as soon as the hub has named it once: a stream that is cut before its first word would
      // begin later the next time.
      if (cursor === 'latest') cursor = (await ask(cursor, controller.signal)).cursor
      const frames = open({
        transport,
        address: feedAddress,
        after: cursor,
        limit: options.limit ?? defaultLimit,
        intervalMillis: options.intervalMillis ?? defaultIntervalMillis,
        silenceMillis,
        controller,
        ask: (after) => ask(after, controller.signal),
      })
      let heard = 0
      for await (const frame of frames) {
        if (signal?.aborted) return
        // The first word of a connection only repeats the place: it does not prove that the next frame will come.
        if (frame.cursor !== cursor || heard++ > 0) failures = 0
        cursor = frame.cursor
        if (frame.readings.length > 0 || options.heartbeats) yield frame
        if (signal?.aborted) return
      }
    } catch (error) {
      if (signal?.aborted) return
      if (error instanceof ProblemError && error.lasting) throw error
      cause = error
    } finally {
      controller.abort()
      release()
    }
    failures++
    await pause(pauseMillis(failures, cause), signal)
  }

  function feedAddress(after: string): URL {
    const url = transport.address('v1/feed')
    url.searchParams.set('after', after)
    if (options.device !== undefined) url.searchParams.set('device', listOf(options.device))
    if (options.metric !== undefined) url.searchParams.set('metric', listOf(options.metric))
    if (options.limit !== undefined) url.searchParams.set('limit', String(options.limit))
    return url
  }

  /** A plain request, which tells in words what a stream or a socket can only fail with. */
  async function ask(after: string, connection: AbortSignal): Promise<Page> {
    return toPage(await transport.getText(feedAddress(after), silenceMillis, connection))
  }
}

/** A list as the hub reads it; a text is one already. */
function listOf(names: string | readonly string[]): string {
  return typeof names === 'string' ? names : names.map((name) => name.replaceAll(',', '\\,')).join(',')
}
