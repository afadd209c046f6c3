import { once } from 'node:events'
import { join } from 'node:path'
import { connectAsync } from 'mqtt'
import { generate, type Packet, parser } from 'mqtt-packet'
import { expect, onTestFinished, test } from 'vitest'
import { openDatabase } from '../../src/store/sqlite/database.ts'
import {
  type HubProcess,
  hubTest,
  rawClient,
  readFigures,
  readWholeHistory,
  startHubProcess,
  waitFor,
} from '../hub-process.ts'
import { createRandom } from '../random.ts'

const t0 = 1_700_000_000_000

/** Collects what the hub answers. */
async function openRaw(hub: HubProcess, clientId: string, keepalive = 0, clean = true) {
  const socket = await rawClient(hub, clientId, { keepalive, clean })
  const answers: Packet[] = []
  const packets = parser({ protocolVersion: 4 })
  packets.on('packet', (packet: Packet) => answers.push(packet))
  socket.on('data', (bytes) => packets.parse(bytes))
  const identifiers = (cmd: string) => answers.filter((packet) => packet.cmd === cmd).map(({ messageId }) => messageId)
  return { socket, answers, identifiers }
}

const publish = (topic: string, payload: string, qos: 0 | 1 | 2, messageId: number) =>
  generate({ cmd: 'publish', topic, payload, qos, messageId, dup: false, retain: false })

hubTest.for([1, 2, 3])(
  'packets of all kinds, cut anywhere, are answered in their order and stored once (seed %i)',
  async (seed, { hub }) => {
    const random = createRandom(seed)
    const { hub_quarantine_entries: before = 0 } = await readFigures(hub)
    const listener = await connectAsync(hub.mqtt)
    onTestFinished(() => listener.endAsync(true).then(() => {}))
    const heard: string[] = []
    listener.on('message', (_topic, payload) => heard.push(payload.toString()))
    await listener.subscribeAsync(`devices/heard-${seed}/telemetry`, { qos: 1 })

    const sent: Buffer[] = []
    const expected: Record<'puback' | 'pubrec', number[]> = { puback: [], pubrec: [] }
    const stored = { silent: 0, heard: 0 }
    let bad = 0
    let pings = 0
    for (let n = 1; n <= 2000; n++) {
      const kind = random.next()
      if (kind < 0.02) {
        sent.push(generate({ cmd: 'pingreq' }))
        pings++
        continue
      }
      const qos = random.integer(0, 2) as 0 | 1 | 2
      if (qos === 1) expected.puback.push(n)
      if (qos === 2) expected.pubrec.push(n)
      if (kind > 0.97) {
        sent.push(publish(`devices/silent-${seed}/telemetry`, '{"n":', qos, n))
        bad++
      } else if (kind > 0.9) {
        sent.push(publish('chat', 'hello', qos, n))
      } else {
        const device = kind < 0.3 ? 'heard' : 'silent'
        stored[device]++
        const pad = 'x'.repeat(random.integer(0, 300))
        sent.push(publish(`devices/${device}-${seed}/telemetry`, JSON.stringify({ ts: t0 + n, n, pad }), qos, n))
      }
    }
    const { socket, identifiers } = await openRaw(hub, `mixed-${seed}`)
    const packets = sent.values()
    let bytes = Buffer.alloc(0)
    let released = 0
    for (;;) {
      const whole = Array.from({ length: random.integer(1, 100) }, () => packets.next().value ?? Buffer.alloc(0))
      // A PUBREL follows its PUBREC. [MQTT-4.3.3-1]
      const releases = identifiers('pubrec').slice(released)
      released += releases.length
      const pubrels = releases.map((messageId) => generate({ cmd: 'pubrel', messageId: messageId as number }))
      bytes = Buffer.concat([bytes, ...whole, ...pubrels])
      if (bytes.length === 0 && released === expected.pubrec.length) break
      const size = random.next() < 0.3 ? random.integer(1, 8) : random.integer(1, 20_000)
      socket.write(bytes.subarray(0, size))
      bytes = bytes.subarray(size)
      await new Promise(setImmediate)
    }
    await waitFor(() => identifiers('pubcomp').length === expected.pubrec.length)
    await waitFor(() => identifiers('puback').length === expected.puback.length)
    expect(identifiers('puback')).toEqual(expected.puback)
    expect(identifiers('pubrec')).toEqual(expected.pubrec)
    expect(new Set(identifiers('pubcomp'))).toEqual(new Set(expected.pubrec))
    expect(identifiers('pingresp')).toHaveLength(pings)
    for (const device of ['silent', 'heard'] as const)
      expect(await readWholeHistory(hub, `${device}-${seed}`)).toHaveLength(stored[device])
    await waitFor(() => heard.length === stored.heard)
    const figures = await readFigures(hub)
    expect(figures.hub_quarantine_entries).toBe(before + bad)
    expect(figures.hub_mqtt_incoming_qos2).toBe(0)
  },
)

hubTest(
  'a subscription counts from its acknowledgement on, also for a topic that nobody heard before',
  async ({ hub }) => {
    const { socket, answers } = await openRaw(hub, 'both')
    socket.write(publish('devices/first/telemetry', `{"ts":${t0},"n":0}`, 1, 1))
    await waitFor(() => answers.length === 1)
    // In one chunk: what comes after the SUBSCRIBE is heard.
    const subscribe = generate({
      cmd: 'subscribe',
      messageId: 2,
      subscriptions: [{ topic: 'devices/+/telemetry', qos: 0 }],
    })
    socket.write(Buffer.concat([subscribe, publish('devices/first/telemetry', `{"ts":${t0 + 1},"n":1}`, 1, 3)]))
    await waitFor(() =>
      answers.some((packet) => packet.cmd === 'publish' && packet.topic === 'devices/first/telemetry'),
    )
  },
)

hubTest('telemetry alone keeps a connection alive', async ({ hub }) => {
  const { socket, identifiers } = await openRaw(hub, 'busy', 1)
  let n = 0
  const timer = setInterval(
    () => socket.write(publish('devices/busy/telemetry', `{"ts":${t0 + ++n},"n":1}`, 1, n)),
    100,
  )
  onTestFinished(() => clearInterval(timer))
  // Keep-alive ends a connection that is silent for one and a half times its interval. [MQTT-3.1.2-24]
  await waitFor(() => identifiers('puback').length >= 30)
})

hubTest('a packet that comes byte by byte, and one near the largest size, are read like any other', async ({ hub }) => {
  const { socket, identifiers } = await openRaw(hub, 'slow')
  for (const byte of publish('devices/slow/telemetry', `{"ts":${t0},"n":0}`, 1, 1)) {
    socket.write(Buffer.of(byte))
    await new Promise(setImmediate)
  }
  const many = Array.from({ length: 250 }, (_, i) => ({ ts: t0 + 1 + i, text: 'x'.repeat(4000) }))
  socket.write(publish('devices/slow/telemetry', JSON.stringify(many), 1, 2))
  await waitFor(() => identifiers('puback').length === 2)
  expect(await readWholeHistory(hub, 'slow')).toHaveLength(251)
})

hubTest('a client that never sends PUBREL is cut off before it fills the memory', async ({ hub }) => {
  const { socket, identifiers } = await openRaw(hub, 'forgetful')
  const closed = once(socket, 'close')
  for (let n = 1; n <= 1001; n++) socket.write(publish('devices/forgetful/telemetry', `{"ts":${t0 + n},"n":1}`, 2, n))
  await closed
  expect(identifiers('pubrec').length).toBeLessThanOrEqual(1000)
  await waitFor(async () => (await readFigures(hub)).hub_mqtt_incoming_qos2 === 0)
})

test('while nothing can be committed, TCP slows a client down, and nothing piles up', async () => {
  const hub = await startHubProcess()
  const { socket, identifiers } = await openRaw(hub, 'eager')
  const other = openDatabase(join(hub.folder, 'hub.db'))
  onTestFinished(() => void other.close())
  other.exec('BEGIN IMMEDIATE')
  const pad = 'x'.repeat(1000)
  const messages = 25_000
  for (let n = 1; n <= messages; n++) {
    socket.write(publish('devices/d/telemetry', JSON.stringify({ ts: t0 + n, pad }), 1, n))
  }
  const taken = () => socket.bytesWritten - socket.writableLength
  let before = -1
  await waitFor(async () => {
    const now = taken()
    await new Promise((resolve) => setTimeout(resolve, 300))
    const still = now > 0 && now === before
    before = now
    return still
  })
  // A read and what the system holds for a socket, of 25 MB.
  expect(taken()).toBeLessThan(20e6)
  other.exec('ROLLBACK')
  await waitFor(() => identifiers('puback').length === messages)
})

hubTest('an identifier that is used again while its PUBREL is being stored names the new message', async ({ hub }) => {
  const first = await openRaw(hub, 'reuse', 0, false)
  first.socket.write(publish('devices/reuse/telemetry', '{"v":1}', 2, 1))
  await waitFor(() => first.identifiers('pubrec').length === 1)
  const other = openDatabase(join(hub.folder, 'hub.db'))
  onTestFinished(() => void other.close())
  other.exec('BEGIN IMMEDIATE')
  first.socket.write(generate({ cmd: 'pubrel', messageId: 1 }))
  first.socket.destroy()
  const second = await openRaw(hub, 'reuse', 0, false)
  // In one chunk, so that the hub has taken in the first packet when it has answered the second one.
  const again = publish('devices/reuse/telemetry', '{"v":2}', 2, 1)
  second.socket.write(Buffer.concat([again, generate({ cmd: 'pingreq' })]))
  await waitFor(() => second.answers.some(({ cmd }) => cmd === 'pingresp'))
  other.exec('ROLLBACK')
  await waitFor(() => second.identifiers('pubrec').length === 1)
  second.socket.write(again)
  await waitFor(() => second.identifiers('pubrec').length === 2)
  expect((await readWholeHistory(hub, 'reuse')).map(({ values }) => values)).toEqual([{ v: 1 }, { v: 2 }])
  second.socket.write(generate({ cmd: 'pubrel', messageId: 1 }))
  await waitFor(() => second.answers.some(({ cmd }) => cmd === 'pubcomp'))
})
