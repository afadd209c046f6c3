import { once } from 'node:events'
import { join } from 'node:path'
import { connectAsync } from 'mqtt'
import { generate, type Packet, parser } from 'mqtt-packet'
import { expect, onTestFinished, test } from 'vitest'
import { openDatabase } from '../../src/store/sqlite/database.ts'
import { type HubProcess, rawClient, startHubProcess, waitFor } from '../hub-process.ts'

/** Until it is let go, nothing can be committed. */
function holdDisk(hub: HubProcess): () => void {
  const other = openDatabase(join(hub.folder, 'hub.db'))
  onTestFinished(() => void other.close())
  other.exec('BEGIN IMMEDIATE')
  return () => other.exec('ROLLBACK')
}

async function openRaw(hub: HubProcess, clientId: string, options = {}) {
  const socket = await rawClient(hub, clientId, options)
  const answers: Packet[] = []
  const packets = parser({ protocolVersion: 4 })
  packets.on('packet', (packet: Packet) => answers.push(packet))
  socket.on('data', (bytes) => packets.parse(bytes))
  return { socket, count: (cmd: string) => answers.filter((packet) => packet.cmd === cmd).length }
}

const publish = (topic: string, qos: 1 | 2, messageId: number) =>
  generate({ cmd: 'publish', topic, payload: '{"t":1}', qos, messageId, dup: false, retain: false })
const ping = generate({ cmd: 'pingreq' })

test('a QoS 2 message that is repeated on a new connection is answered after its commit, and passed on once', async () => {
  const hub = await startHubProcess()
  const listener = await connectAsync(hub.mqtt, { clientId: 'listener', clean: false })
  onTestFinished(() => listener.endAsync(true).then(() => {}))
  const heard: string[] = []
  listener.on('message', (topic) => heard.push(topic))
  await listener.subscribeAsync(['x', 'end'], { qos: 2 })
  const first = await openRaw(hub, 'same', { clean: false })
  const release = holdDisk(hub)
  // In one chunk, so that the hub has taken in the message when it has answered what comes after it.
  first.socket.write(Buffer.concat([publish('x', 2, 7), ping]))
  await waitFor(() => first.count('pingresp') === 1)
  first.socket.destroy()
  const second = await openRaw(hub, 'same', { clean: false })
  second.socket.write(Buffer.concat([publish('x', 2, 7), publish('x', 2, 7), ping]))
  await waitFor(() => second.count('pingresp') === 1)
  expect(second.count('pubrec')).toBe(0)
  release()
  await waitFor(() => second.count('pubrec') === 2)
  second.socket.write(publish('end', 2, 8))
  await waitFor(() => heard.includes('end'))
  expect(heard).toEqual(['x', 'end'])
})

test('keep-alive ends who is silent, and nobody whose messages wait for their commit', async () => {
  const hub = await startHubProcess()
  // More packets than a read holds: its pings cannot be heard.
  const waiting = await openRaw(hub, 'waiting', { keepalive: 1 })
  const heard = await connectAsync(hub.mqtt)
  onTestFinished(() => heard.endAsync(true).then(() => {}))
  const publisher = await openRaw(hub, 'publisher', { keepalive: 1 })
  await heard.subscribeAsync('heard')
  const release = holdDisk(hub)
  waiting.socket.write(publish('devices/d/telemetry', 1, 1))
  publisher.socket.write(publish('devices/d/telemetry/heard', 1, 1))
  for (let i = 0; i < 2; i++) {
    const silent = await openRaw(hub, `silent${i}`, { keepalive: 1 })
    await once(silent.socket, 'close')
  }
  expect(hub.output()).toContain('keep alive timeout')
  release()
  await waitFor(() => waiting.count('puback') === 1 && publisher.count('puback') === 1)
})
