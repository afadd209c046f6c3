// Where packets begin and end in what a socket brings.

/** Bytes of the packet at `at` with its fixed header; 0: the header is not whole yet, -1: it is none. MQTT 3.1.1 §2.2.3 */
export function packetBytes(bytes: Buffer, at: number): number {
  let length = 0
  let scale = 1
  for (let i = at + 1; i < bytes.length; i++) {
    const byte = bytes[i] as number
    length += (byte & 127) * scale
    if (byte < 128) return i + 1 - at + length
    if (i === at + 4) return -1
    scale *= 128
  }
  return 0
}

/** The beginning of a packet whose end has not arrived. What it keeps is a copy: a chunk would keep much more alive. */
export function createRemainder() {
  let held: Buffer | null = null
  let length = 0
  let needed = 0

  function append(piece: Buffer): void {
    let room = held as Buffer
    if (length + piece.length > room.length) {
      room = Buffer.allocUnsafeSlow(Math.max(room.length * 2, length + piece.length))
      held?.copy(room, 0, 0, length)
      held = room
    }
    length += piece.copy(room, length)
  }

  return {
    /** What is to be parsed now that a chunk has arrived; `null` when that is still no whole packet. */
    join(chunk: Buffer): Buffer | null {
      if (!held) return chunk
      append(chunk)
      if (length < needed) return null
      const joined = held.subarray(0, length)
      held = null
      return joined
    },
    /** Keeps `bytes` from `at` on, until there are `size` of them; 0: until there are more. */
    hold(bytes: Buffer, at: number, size: number): void {
      held = Buffer.allocUnsafeSlow(bytes.length - at)
      length = 0
      needed = size
      append(bytes.subarray(at))
    },
  }
}
