import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { connectAsync } from 'mqtt'
import { generate } from 'mqtt-packet'
import { expect, onTestFinished, test } from 'vitest'
import { createWebSocketStream, WebSocket } from 'ws'
import { startHealthy } from './fuzz/healthy.ts'
import { upgradeRequest } from './fuzz/http-requests.ts'
import { type HubProcess, rawClient, readFigures, startHubProcess, waitFor } from './hub-process.ts'

/** Bytes of one message; the load is many times what sockets and the system hold for those who do not read. */
const messageBytes = 20_000
const messages = 700

function ask(hub: HubProcess, request: Buffer): Socket {
  const socket = connect(hub.httpPort, '127.0.0.1')
  socket.on('error', () => {})
  socket.pause()
  socket.write(request)
  onTestFinished(() => void socket.destroy())
  return socket
}

/** At QoS 0, 1 and 2, and the third of them over WebSocket. */
async function stall(hub: HubProcess, index: number): Promise<void> {
  const qos = (index % 3) as 0 | 1 | 2
  const name = `stalled${index}`
  const subscriber = qos === 2 ? await webSocketClient(hub, name) : await rawClient(hub, name)
  subscriber.write(generate({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'devices/#', qos }] }))
  await once(subscriber, 'data')
  subscriber.pause()
  ask(hub, upgradeRequest('/v1/feed'))
  ask(hub, Buffer.from('GET /v1/feed HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n'))
}

async function webSocketClient(hub: HubProcess, clientId: string): Promise<Duplex> {
  const stream = createWebSocketStream(new WebSocket(`ws://127.0.0.1:${hub.httpPort}/mqtt`, 'mqtt'))
  stream.on('error', () => {})
  onTestFinished(() => void stream.destroy())
  stream.write(generate({ cmd: 'connect', clientId, protocolVersion: 4, clean: true, keepalive: 0 }))
  await once(stream, 'data')
  return stream
}

/** A hub under load with so many stalled subscribers of each kind: its memory in the end, and how its others fared. */
async function loadBeside(count: number) {
  const hub = await startHubProcess()
  const sender = await connectAsync(hub.mqtt)
  onTestFinished(() => sender.endAsync(true).then(() => {}))
  const crowd = await Promise.all(Array.from({ length: 32 }, () => connectAsync(hub.mqtt)))
  onTestFinished(() => Promise.all(crowd.map((one) => one.endAsync(true))).then(() => {}))
  let n = 0
  const publish = (from = sender) => {
    const values = { text: 'x'.repeat(4000), a: 'x'.repeat(4000), b: 'x'.repeat(4000), c: 'x'.repeat(4000), n }
    const body = JSON.stringify({ ts: 1_700_000_000_000 + n++, values }).padEnd(messageBytes)
    return from.publishAsync('devices/load/telemetry', body, { qos: 1 })
  }
  for (let i = 0; i < count; i++) await stall(hub, i)
  await waitFor(async () => ((await readFigures(hub)).hub_feed_followers ?? 0) === 2 * count)
  const healthy = await startHealthy(hub)
  for (let i = 0; i < messages; i++) await publish()
  // As much as many senders bring in one turn.
  await Promise.all(crowd.flatMap((one) => Array.from({ length: 12 }, () => publish(one))))
  for (let i = 0; i < messages; i++) await publish()
  const { worst, acknowledged, stored } = await healthy.stop()
  expect(stored).toBe(acknowledged)
  expect(worst.mqtt).toBeLessThan(1000)
  expect(worst.http).toBeLessThan(1000)
  const { process_resident_memory_bytes: memory, hub_mqtt_dropped_total: dropped } = await readFigures(hub)
  await hub.kill('SIGKILL')
  return { memory: memory as number, dropped: dropped as number }
}

test('3 and 30 stalled subscribers each of MQTT, WebSocket and SSE delay nobody by a second, and cost less than 100 MB', async () => {
  const none = await loadBeside(0)
  for (const count of [3, 30]) {
    const { memory, dropped } = await loadBeside(count)
    expect(memory - none.memory).toBeLessThan(100e6)
    expect(dropped).toBeGreaterThan(0)
  }
})
