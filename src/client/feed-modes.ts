import type { Connection } from './feed-connection.ts'
import { readSocket } from './feed-socket.ts'
import { createEventDecoder, createLineDecoder, type Frame, type FrameDecoder, toPage } from './frame.ts'
import { pause, within } from './retry.ts'

export type FeedMode = 'sse' | 'websocket' | 'long-poll' | 'poll' | 'ndjson'

/** Each mode as frames in order, none twice. They end, or throw, when the connection does. */
export const modes: Record<FeedMode, (connection: Connection) => AsyncGenerator<Frame, void, void>> = {
  sse: (connection) => readStream(connection, 'text/event-stream', createEventDecoder()),
  ndjson: (connection) => readStream(connection, 'application/x-ndjson', createLineDecoder(connection.limit)),
  websocket: readSocket,
  poll,
  'long-poll': longPoll,
}

async function* poll({ ask, after, intervalMillis, controller }: Connection): AsyncGenerator<Frame, void, void> {
  while (!controller.signal.aborted) {
    const page = await ask(after)
    after = page.cursor
    yield page
    if (page.caughtUp) await pause(intervalMillis, controller.signal)
  }
}

async function* longPoll(connection: Connection): AsyncGenerator<Frame, void, void> {
  const { transport, address, silenceMillis, controller } = connection
  // A third of what counts as dead, as the heartbeats of a stream are.
  const waitSeconds = Math.max(1, Math.floor(silenceMillis / 3000))
  const timeoutMillis = waitSeconds * 1000 + (silenceMillis * 2) / 3
  let after = connection.after
  while (!controller.signal.aborted) {
    const url = address(after)
    url.searchParams.set('wait', String(waitSeconds))
    const begin = Date.now()
    const page = toPage(await transport.getText(url, timeoutMillis, controller.signal))
    after = page.cursor
    yield page
    // A hub that is stopping answers at once; it is not asked again at once.
    const early = Date.now() - begin < (waitSeconds * 1000) / 2
    if (page.readings.length === 0 && page.caughtUp && early) return
  }
}

async function* readStream(
  { transport, address, after, silenceMillis, controller }: Connection,
  type: string,
  decoder: FrameDecoder,
): AsyncGenerator<Frame, void, void> {
  // Only while this side waits: a reader that takes its time hears nothing because it does not listen.
  const heard = <T>(promise: Promise<T>) =>
    within(silenceMillis, promise, () => controller.abort(new Error(`nothing heard for ${silenceMillis} ms`)))

  const init = { headers: { accept: type }, signal: controller.signal }
  const { body } = await heard(transport.open(address(after), init))
  if (body === null) return
  const reader = body.getReader()
  for (;;) {
    const { done, value } = await heard(reader.read())
    if (done) return
    yield* decoder.push(value as Uint8Array)
  }
}
