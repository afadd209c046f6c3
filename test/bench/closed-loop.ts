import type { Socket } from 'node:net'
import { now } from './clock.ts'
import { closeConnections, openConnections } from './connections.ts'
import { acknowledgementBytes, createTelemetryFrames, packetType } from './frames.ts'
import type { LoadOptions, LoadResult } from './load.ts'
import { cpuSeconds } from './proc.ts'

interface Publisher {
  socket: Socket
  /** Its own devices: this one and every `connections`th after it. */
  device: number
  messageId: number
  inFlight: number
  /** The end of a read that cut an acknowledgement in two. */
  rest: number[]
}

/** Keeps `inFlight` messages on the way on each connection. What one read acknowledged is sent anew in one write. */
export async function closedLoop(options: LoadOptions): Promise<LoadResult> {
  const { connections, devices, qos, pids } = options
  const frames = createTelemetryFrames({ devices, qos, stamped: options.stamped, clock: now })
  const publishers: Publisher[] = []
  const limit = options.messages > 0 ? options.messages : Number.POSITIVE_INFINITY
  const finalType = qos === 2 ? packetType.pubcomp : packetType.puback
  let sent = 0
  let taken = 0
  let stopped = false
  let lastTaken = 0
  let drained = (): void => {}

  function refill(publisher: Publisher, releases: readonly number[]): void {
    const room = stopped ? 0 : Math.min(options.inFlight - publisher.inFlight, limit - sent)
    const releaseBytes = releases.length * acknowledgementBytes
    if (room + releaseBytes === 0) return
    const bytes = Buffer.allocUnsafe(releaseBytes + room * frames.length)
    releases.forEach((messageId, i) => {
      bytes.writeUInt32BE((packetType.pubrel << 24) | (2 << 16) | messageId, i * acknowledgementBytes)
    })
    for (let at = releaseBytes; at < bytes.length; at += frames.length) {
      publisher.messageId = (publisher.messageId % 0xffff) + 1
      frames.write(publisher.device, publisher.messageId, bytes, at)
      publisher.device += connections
      if (publisher.device >= devices) publisher.device %= connections
    }
    publisher.inFlight += room
    sent += room
    publisher.socket.write(bytes)
  }

  function onBytes(index: number, read: Uint8Array, length: number): void {
    const publisher = publishers[index] as Publisher
    const { rest } = publisher
    const cut = rest.length
    const byteAt = (at: number): number => (at < cut ? rest[at] : read[at - cut]) as number
    const whole = cut + length - ((cut + length) % acknowledgementBytes)
    const releases: number[] = []
    let ended = 0
    for (let at = 0; at < whole; at += acknowledgementBytes) {
      const type = byteAt(at)
      if (type === finalType) ended++
      else if (type === packetType.pubrec) releases.push((byteAt(at + 2) << 8) | byteAt(at + 3))
      else throw new Error(`connection ${index} got a packet of the type ${type}`)
    }
    publisher.rest = Array.from({ length: cut + length - whole }, (_, i) => byteAt(whole + i))
    publisher.inFlight -= ended
    taken += ended
    if (ended > 0) lastTaken = now()
    refill(publisher, releases)
    if (taken === sent && (stopped || sent >= limit)) drained()
  }

  const sockets = await openConnections(options.port, connections, 'load-', onBytes)
  for (const [index, socket] of sockets.entries()) {
    publishers.push({ socket, device: index % devices, messageId: 0, inFlight: 0, rest: [] })
  }
  const begun = now()
  const allTaken = new Promise<void>((resolve) => {
    drained = resolve
  })
  for (const publisher of publishers) refill(publisher, [])

  if (limit !== Number.POSITIVE_INFINITY) {
    const cpuBefore = cpuSeconds(pids)
    await allTaken
    closeConnections(sockets)
    const used = cpuSeconds(pids) - cpuBefore
    return { startedAt: begun, endedAt: lastTaken, taken, sent, cpuSeconds: used, latency: null, lateness: null }
  }
  await sleep(options.warmupSeconds * 1000)
  const [startedAt, takenBefore, cpuBefore] = [now(), taken, cpuSeconds(pids)]
  await sleep(options.seconds * 1000)
  const [endedAt, takenAfter, cpuAfter] = [now(), taken, cpuSeconds(pids)]
  stopped = true
  if (taken < sent) await allTaken
  closeConnections(sockets)
  const used = cpuAfter - cpuBefore
  return { startedAt, endedAt, taken: takenAfter - takenBefore, sent, cpuSeconds: used, latency: null, lateness: null }
}

function sleep(millis: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, millis))
}
