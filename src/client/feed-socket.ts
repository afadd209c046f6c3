import type { Connection } from './feed-connection.ts'
import { type Frame, toFrame } from './frame.ts'

/** The part of WebSocket that browsers, Node and the package `ws` have in common. */
interface Socket {
  onmessage: ((event: { data: unknown }) => void) | null
  onclose: (() => void) | null
  onerror: (() => void) | null
  close(): void
  /** Ends at once, where the close handshake may wait for a peer that is gone. */
  terminate?(): void
}
type SocketClass = new (url: string, options?: { headers: Record<string, string> }) => Socket

/**
 * Characters of frames that wait for their reader. A WebSocket cannot be told to pause, so that one whose reader is
 * slower than this is closed, and opened again from the last cursor: the rest waits in the hub's log.
 */
const maxBufferedCharacters = 2_000_000

/** A browser's WebSocket sends no `Authorization`. */
export function socketsCarryHeaders(): boolean {
  return (globalThis as { process?: { versions?: { node?: string } } }).process?.versions?.node !== undefined
}

export async function* readSocket(connection: Connection): AsyncGenerator<Frame, void, void> {
  const { transport, address, after, controller, silenceMillis } = connection
  const url = address(after)
  url.protocol = url.protocol.replace('http', 'ws')
  const WebSocket = await findSocketClass()
  // A second argument of a browser's WebSocket would be taken for a subprotocol.
  const headers = { authorization: `Bearer ${transport.token}` }
  const socket = transport.token === undefined ? new WebSocket(url.href) : new WebSocket(url.href, { headers })

  const buffer: string[] = []
  let characters = 0
  let refused = false
  let closed = false
  let words = 0
  let wake = () => {}

  function close(): void {
    if (closed) return
    closed = true
    socket.onmessage = null
    // A socket that is closed before it has opened reports that as an error; to nobody.
    socket.onerror = () => {}
    socket.onclose = null
    if (socket.terminate) socket.terminate()
    else socket.close()
    wake()
  }
  socket.onclose = close
  socket.onerror = close
  socket.onmessage = ({ data }) => {
    buffer.push(String(data))
    characters += String(data).length
    if (characters > maxBufferedCharacters) close()
    wake()
  }
  if (controller.signal.aborted) close()
  controller.signal.addEventListener('abort', close)

  try {
    for (;;) {
      const text = buffer.shift()
      if (text === undefined) {
        if (closed) break
        await new Promise<void>((resolve) => {
          const timer = setTimeout(close, silenceMillis)
          wake = () => {
            clearTimeout(timer)
            resolve()
          }
        })
        continue
      }
      characters -= text.length
      const { type, readings = [], cursor } = JSON.parse(text) as Record<string, unknown>
      refused = type === 'error'
      if (refused) break
      words++
      yield toFrame(readings, cursor)
    }
  } finally {
    close()
    controller.signal.removeEventListener('abort', close)
  }
  // A browser hides the answer to a refused upgrade, and an error frame tells less than a problem does: ask over HTTP.
  if ((refused || words === 0) && !controller.signal.aborted) await connection.ask(after)
}

async function findSocketClass(): Promise<SocketClass> {
  const own = (globalThis as { WebSocket?: unknown }).WebSocket
  return (own ?? (await import('ws')).WebSocket) as SocketClass
}
