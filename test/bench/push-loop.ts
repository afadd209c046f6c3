import type { Socket } from 'node:net'
import { now } from './clock.ts'
import { closeConnections, openConnections } from './connections.ts'
import { createTelemetryFrames, pingAnswerBytes, pingFrame } from './frames.ts'
import type { LoadOptions, LoadResult } from './load.ts'
import { cpuSeconds } from './proc.ts'

/** Frames of one write. */
const batch = 50
/** What may wait in this process for one socket. */
const maxUnsentBytes = 64 * 1024

/**
 * QoS 0: sends as fast as TCP takes it. Nothing is acknowledged, so each connection ends with a PINGREQ: its answer says
 * that the server has read what came before, and the time until then counts.
 */
export async function pushLoop(options: LoadOptions): Promise<LoadResult> {
  const { connections, devices, pids } = options
  const frames = createTelemetryFrames({ devices, qos: 0, stamped: options.stamped, clock: now })
  let sent = 0
  let answered = 0
  let allAnswered = (): void => {}

  const sockets = await openConnections(options.port, connections, 'load-', (_index, _bytes, length) => {
    answered += length
    if (answered === connections * pingAnswerBytes) allAnswered()
  })
  const nextDevice = sockets.map((_, index) => index % devices)

  function write(socket: Socket, index: number): void {
    const bytes = Buffer.allocUnsafe(batch * frames.length)
    let device = nextDevice[index] as number
    for (let at = 0; at < bytes.length; at += frames.length) {
      frames.write(device, 0, bytes, at)
      device += connections
      if (device >= devices) device %= connections
    }
    nextDevice[index] = device
    sent += batch
    socket.write(bytes)
  }

  /** Sends for a while, then waits until everything is read. */
  async function push(seconds: number): Promise<{ startedAt: number; endedAt: number; count: number; used: number }> {
    const before = sent
    const cpuBefore = cpuSeconds(pids)
    const startedAt = now()
    while (now() < startedAt + seconds * 1000) {
      for (const [index, socket] of sockets.entries()) if (socket.writableLength < maxUnsentBytes) write(socket, index)
      await new Promise(setImmediate)
    }
    answered = 0
    const drained = new Promise<void>((resolve) => {
      allAnswered = resolve
    })
    for (const socket of sockets) socket.write(pingFrame)
    await drained
    return { startedAt, endedAt: now(), count: sent - before, used: cpuSeconds(pids) - cpuBefore }
  }

  await push(options.warmupSeconds)
  const { startedAt, endedAt, count, used } = await push(options.seconds)
  closeConnections(sockets)
  return { startedAt, endedAt, taken: count, sent, cpuSeconds: used, latency: null, lateness: null }
}
