/** What one device measured at one instant. */
export interface Reading {
  device: string
  /** Milliseconds since the Unix epoch, UTC. */
  ts: number
  values: Record<string, number | boolean | string>
  /** When the hub received it, in the same unit. */
  received: number
}

/** Readings, and the place in the log after them. Without readings it tells how far the feed has come: a heartbeat. */
export interface Frame {
  readings: Reading[]
  cursor: string
}

/**
 * Bytes in, whole frames out. A frame counts when its end has arrived: what a cut left of one is thrown away with the
 * decoder, and comes again from the last cursor.
 */
export interface FrameDecoder {
  push(bytes: Uint8Array): Frame[]
}

/** Pieces of a text up to each end mark; what comes after the last mark waits for more. */
function createSplitter(mark: string): (bytes: Uint8Array) => string[] {
  const decoder = new TextDecoder()
  let rest = ''
  return (bytes) => {
    const from = Math.max(0, rest.length - mark.length + 1)
    rest += decoder.decode(bytes, { stream: true })
    // A large frame comes in many chunks: what was searched before is not searched again.
    if (rest.indexOf(mark, from) < 0) return []
    const pieces = rest.split(mark)
    rest = pieces.pop() as string
    return pieces
  }
}

/** Server-sent events as this hub writes them: `id`, `event` and one `data` a block, lines ended by LF. */
export function createEventDecoder(): FrameDecoder {
  const split = createSplitter('\n\n')
  return { push: (bytes) => split(bytes).map(readEvent) }
}

function readEvent(block: string): Frame {
  const fields: Record<string, string> = {}
  for (const line of block.split('\n')) {
    const colon = line.indexOf(': ')
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 2)
  }
  const { readings } = JSON.parse(fields.data ?? '{}') as { readings?: unknown }
  return toFrame(readings ?? [], fields.id)
}

/** Lines of JSON, each a reading with its own cursor, or a cursor alone. A frame is what came at once, up to the limit. */
export function createLineDecoder(limit: number): FrameDecoder {
  const split = createSplitter('\n')
  return {
    push(bytes) {
      const frames: Frame[] = []
      let last: Frame | undefined
      for (const line of split(bytes)) {
        const { cursor, ...reading } = JSON.parse(line) as Reading & { cursor: unknown }
        const readings = reading.device === undefined ? [] : [reading]
        if (last === undefined || last.readings.length + readings.length > limit) {
          last = toFrame([], cursor)
          frames.push(last)
        }
        last.readings.push(...readings)
        last.cursor = toFrame([], cursor).cursor
      }
      return frames
    },
  }
}

/** The answer to a plain request: a frame, and whether there was nothing more. */
export interface Page extends Frame {
  caughtUp: boolean
}

export function toPage(text: string): Page {
  const { readings, cursor, caughtUp } = JSON.parse(text) as Record<string, unknown>
  return { ...toFrame(readings, cursor), caughtUp: caughtUp === true }
}

/** Throws when the content is none of the hub's, as a proxy's own page would be. */
export function toFrame(readings: unknown, cursor: unknown): Frame {
  if (!Array.isArray(readings) || typeof cursor !== 'string') throw new Error('this is no answer of a telemetry-hub')
  return { readings, cursor }
}
