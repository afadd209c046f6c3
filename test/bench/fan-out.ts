import type { Socket } from 'node:net'
import { answer, helperOptions } from './children.ts'
import { now } from './clock.ts'
import { closeConnections, openConnections } from './connections.ts'
import { publishFrame, subscribeAnswerBytes, subscribeFrame } from './frames.ts'
import { cpuSeconds } from './proc.ts'

/*
 * One publisher and many subscribers of its topic, at QoS 0 and in one process: a delivery is the published frame
 * byte by byte, so counting them takes a division. The publisher runs ahead of what has been delivered by so much only,
 * as a broker may drop what a subscriber does not take.
 */

export interface FanOutOptions {
  port: number
  subscribers: number
  warmupSeconds: number
  seconds: number
  pids: number[]
}

export interface FanOutResult {
  deliveriesPerSecond: number
  cpuSeconds: number
  deliveries: number
}

/** Publishes that may be under way, and how many are written at once. */
const ahead = 64
const batch = 16

async function main({ port, subscribers, warmupSeconds, seconds, pids }: FanOutOptions): Promise<void> {
  const topic = 'bench/fan-out'
  const frame = publishFrame(topic, '{"temperature":21.53,"humidity":45.2,"power":123,"state":"running"}')
  const frames = Buffer.concat(Array.from({ length: batch }, () => frame))
  let bytes = 0
  let published = 0
  let publisher: Socket | null = null

  function publish(): void {
    while (publisher && (published + batch) * subscribers - bytes / frame.length <= ahead * subscribers) {
      publisher.write(frames)
      published += batch
    }
  }

  const sockets = await openConnections(port, subscribers, 'subscriber-', (_index, _bytes, length) => {
    bytes += length
    publish()
  })
  const subscribe = subscribeFrame(topic, 0)
  for (const socket of sockets) socket.write(subscribe)
  while (bytes < subscribers * subscribeAnswerBytes) await sleep(10)
  bytes = 0
  const [sender] = await openConnections(port, 1, 'publisher-', () => {})
  publisher = sender ?? null
  publish()

  await sleep(warmupSeconds * 1000)
  const [startedAt, before, cpuBefore] = [now(), bytes, cpuSeconds(pids)]
  await sleep(seconds * 1000)
  const deliveries = (bytes - before) / frame.length
  const deliveriesPerSecond = (deliveries * 1000) / (now() - startedAt)
  const result: FanOutResult = { deliveriesPerSecond, deliveries, cpuSeconds: cpuSeconds(pids) - cpuBefore }
  closeConnections(publisher ? [...sockets, publisher] : sockets)
  await answer({ kind: 'done', result })
  process.exit(0)
}

function sleep(millis: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, millis))
}

if (process.argv[1] === import.meta.filename) await main(helperOptions<FanOutOptions>())
