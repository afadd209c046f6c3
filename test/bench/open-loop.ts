import type { Socket } from 'node:net'
import { Worker } from 'node:worker_threads'
import { answer } from './children.ts'
import { now } from './clock.ts'
import { closeConnections, openConnections } from './connections.ts'
import { acknowledgementBytes, createTelemetryFrames, packetType } from './frames.ts'
import type { LoadOptions, LoadResult } from './load.ts'
import type { PacerOptions } from './pacer.ts'
import { cpuSeconds } from './proc.ts'
import { spread } from './statistics.ts'

/** Messages are due on a grid of half milliseconds, finer than any latency of interest. */
const tickMillis = 0.5
/** Messages of one connection that may be unacknowledged before the measurement is given up. */
const maxOpen = 8192

interface Publisher {
  socket: Socket
  device: number
  messageId: number
  /** By message id: when it was due. */
  due: Float64Array
  open: number
  rest: number[]
}

/**
 * Sends at a fixed rate, whatever the server does. Latency counts from when a message was due: a server that stalls
 * delays what would have been sent meanwhile, and that is seen.
 */
export async function openLoop(options: LoadOptions): Promise<LoadResult> {
  const { connections, devices, rate, pids } = options
  const frames = createTelemetryFrames({ devices, qos: 1, stamped: options.stamped, clock: now })
  const publishers: Publisher[] = []
  const latencies: number[] = []
  const latenesses: number[] = []
  let sent = 0
  let taken = 0
  let drained = (): void => {}

  const sockets = await openConnections(options.port, connections, 'load-', (index, read, length) => {
    const publisher = publishers[index] as Publisher
    const arrived = now()
    const bytes =
      publisher.rest.length === 0
        ? read.subarray(0, length)
        : Buffer.concat([Buffer.from(publisher.rest), read.subarray(0, length)])
    const whole = bytes.length - (bytes.length % acknowledgementBytes)
    for (let at = 0; at < whole; at += acknowledgementBytes) {
      if (bytes[at] !== packetType.puback) throw new Error(`connection ${index} got a packet of the type ${bytes[at]}`)
      const messageId = ((bytes[at + 2] as number) << 8) | (bytes[at + 3] as number)
      const due = publisher.due[messageId % maxOpen] as number
      if (due >= measureFrom) latencies.push(arrived - due)
      publisher.open--
      taken++
    }
    publisher.rest = Array.from(bytes.subarray(whole))
    if (taken === total) drained()
  })
  for (const [index, socket] of sockets.entries()) {
    publishers.push({
      socket,
      device: index % devices,
      messageId: 0,
      due: new Float64Array(maxOpen),
      open: 0,
      rest: [],
    })
  }

  function send(due: number): void {
    const publisher = publishers[sent % connections] as Publisher
    if (publisher.open++ >= maxOpen) throw new Error(`the server is ${maxOpen} messages behind on a connection`)
    publisher.messageId = (publisher.messageId % 0xffff) + 1
    publisher.due[publisher.messageId % maxOpen] = due
    const bytes = Buffer.allocUnsafe(frames.length)
    frames.write(publisher.device, publisher.messageId, bytes, 0)
    publisher.device += connections
    if (publisher.device >= devices) publisher.device %= connections
    sent++
    publisher.socket.write(bytes)
    if (due >= measureFrom) latenesses.push(now() - due)
  }

  const begun = now() + 20
  const measureFrom = begun + options.warmupSeconds * 1000
  const total = Math.floor((options.warmupSeconds + options.seconds) * rate)
  const perTick = (rate * tickMillis) / 1000
  const allTaken = new Promise<void>((resolve) => {
    drained = resolve
  })
  const pacer = new Worker(new URL('./pacer.js', import.meta.url), {
    workerData: { startAt: begun, tickMillis } satisfies PacerOptions,
  })
  let tick = 0
  let cpuBefore = 0
  let measuring = false
  pacer.on('message', () => {
    const current = Math.floor((now() - begun) / tickMillis)
    for (; tick <= current; tick++) {
      const due = begun + tick * tickMillis
      if (due >= measureFrom && !measuring) {
        measuring = true
        cpuBefore = cpuSeconds(pids)
        void answer({ kind: 'measuring' })
      }
      while (sent < total && sent < (tick + 1) * perTick) send(due)
    }
  })
  await allTaken
  const endedAt = now()
  const used = cpuSeconds(pids) - cpuBefore
  await pacer.terminate()
  closeConnections(sockets)
  return {
    startedAt: measureFrom,
    endedAt,
    taken: latencies.length,
    sent,
    cpuSeconds: used,
    latency: spread(latencies),
    lateness: spread(latenesses),
  }
}
