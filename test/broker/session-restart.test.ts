import { once } from 'node:events'
import { connect as connectSocket, type Socket } from 'node:net'
import { connect, type IClientOptions, type MqttClient } from 'mqtt'
import { generate, type Packet, parser } from 'mqtt-packet'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type HubProcess, hubTestWith, startHubProcess, waitFor } from '../hub-process.ts'

const queueBounds = ['--max-queued', '5', '--max-queued-size', '2KiB', '--max-queued-total', '2500B']
const boundedTest = hubTestWith(...queueBounds, '--max-retained', '4', '--max-retained-size', '1600B')

interface Message {
  topic: string
  text: string
  qos: number
  retain: boolean
  dup: boolean
}

async function open(hub: HubProcess, options: IClientOptions = {}) {
  const client: MqttClient = connect(hub.mqtt, { reconnectPeriod: 0, ...options })
  client.on('error', () => {})
  onTestFinished(() => client.endAsync(true).then(() => {}))
  const messages: Message[] = []
  // Listened to from the start: what waited may come together with CONNACK.
  client.on('message', (topic, payload, { qos, retain, dup }) => {
    messages.push({ topic, text: payload.toString(), qos, retain, dup })
  })
  const connack = await new Promise<{ sessionPresent: boolean; code: number }>((resolve) => {
    client.once('connect', ({ sessionPresent }) => resolve({ sessionPresent, code: 0 }))
    client.once('error', (error) => resolve({ sessionPresent: false, code: (error as { code?: number }).code ?? -1 }))
  })
  return { client, messages, ...connack }
}

/** The same hub again, after it was killed. */
async function killAndRestart(hub: HubProcess, args: string[] = []): Promise<HubProcess> {
  await hub.kill('SIGKILL')
  return startHubProcess({ folder: hub.folder, args })
}

const remembered = (clientId: string): IClientOptions => ({ clientId, clean: false })

/** A subscriber made of bytes, which answers nothing by itself. */
async function openRaw(hub: HubProcess, clientId: string) {
  const socket: Socket = connectSocket(hub.mqttPort, '127.0.0.1')
  onTestFinished(() => void socket.destroy())
  socket.on('error', () => {})
  const packets: Packet[] = []
  const parsing = parser()
  parsing.on('packet', (packet) => packets.push(packet))
  socket.on('data', (chunk) => parsing.parse(chunk))
  await once(socket, 'connect')
  const send = (packet: Packet) => void socket.write(generate(packet))
  send({ cmd: 'connect', clientId, clean: false, protocolVersion: 4, keepalive: 0 } as Packet)
  const next = <C extends Packet['cmd']>(cmd: C) =>
    waitFor(() => packets.find((packet) => packet.cmd === cmd) as Extract<Packet, { cmd: C }> | undefined)
  await next('connack')
  return { socket, packets, send, next }
}

async function metric(hub: HubProcess, name: string): Promise<number> {
  const text = await (await fetch(`${hub.http}/metrics`)).text()
  return Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1])
}

describe('after a kill -9', () => {
  test('an absent subscriber gets every message that was acknowledged, those of QoS 2 once', async () => {
    let hub = await startHubProcess()
    const absent = await open(hub, remembered('absent'))
    await absent.client.subscribeAsync('x/#', { qos: 2 })
    await absent.client.endAsync()
    const acknowledged: string[] = []
    for (let round = 0; round < 2; round++) {
      const { client } = await open(hub)
      let n = 0
      const more = () => {
        const text = `${round}-${n}`
        const qos = n % 2 === 0 ? 1 : 2
        client.publish(`x/${n % 3}`, text, { qos }, (error) => {
          if (!error) acknowledged.push(`${qos}:${text}`)
        })
        n++
      }
      for (let i = 0; i < 20; i++) more()
      const pump = setInterval(() => {
        for (let i = 0; i < 20; i++) more()
      }, 5)
      const enough = acknowledged.length + 300
      await waitFor(() => acknowledged.length >= enough)
      await hub.kill('SIGKILL')
      clearInterval(pump)
      await client.endAsync(true)
      hub = await startHubProcess({ folder: hub.folder })
    }
    const back = await open(hub, remembered('absent'))
    expect(back.sessionPresent).toBe(true)
    await waitFor(() => {
      const arrived = new Set(back.messages.map(({ text, qos }) => `${qos}:${text}`))
      return acknowledged.every((text) => arrived.has(text))
    })
    const exactly = back.messages.filter(({ qos }) => qos === 2).map(({ text }) => text)
    // In the order of their publisher. [MQTT-4.6.0-6]
    const order = (text: string) => text.split('-').reduce((sum, part) => sum * 1e6 + Number(part), 0)
    for (const topic of ['x/0', 'x/1', 'x/2']) {
      const numbers = back.messages.filter((one) => one.qos === 2 && one.topic === topic).map(({ text }) => order(text))
      expect(numbers).toEqual([...new Set(numbers)].sort((one, other) => one - other))
    }
    expect(new Set(exactly).size).toBe(exactly.length)
    // What was acknowledged by the subscriber does not come again.
    await waitFor(async () => (await metric(hub, 'hub_mqtt_queued')) === 0)
  })

  test('retained messages and subscriptions are there, those that were taken back are not, and nobody is online', async () => {
    let hub = await startHubProcess()
    const { client } = await open(hub)
    await client.publishAsync('r/kept', 'one', { qos: 1, retain: true })
    await client.publishAsync('r/kept', 'two', { qos: 2, retain: true })
    await client.publishAsync('r//level', 'empty', { qos: 1, retain: true })
    await client.publishAsync('r/gone', 'three', { qos: 1, retain: true })
    await client.publishAsync('r/gone', '', { qos: 1, retain: true })
    const first = await open(hub, remembered('s'))
    await first.client.subscribeAsync('a/+', { qos: 1 })
    await first.client.subscribeAsync('b/+', { qos: 2 })
    await first.client.unsubscribeAsync('b/+')
    const before = await open(hub, remembered('clean'))
    await before.client.subscribeAsync('x', { qos: 1 })
    await before.client.endAsync()
    await client.publishAsync('x', 'old', { qos: 1 })
    // A session that begins clean leaves nothing of the one before, on disk neither.
    expect((await open(hub, { clientId: 'clean', clean: true })).sessionPresent).toBe(false)
    await client.publishAsync('devices/d/telemetry', '{"t":1}', { qos: 1 })
    await client.publishAsync('devices/d/telemetry', '{"t":2}', { qos: 1 })

    hub = await killAndRestart(hub)
    expect((await open(hub, remembered('clean'))).sessionPresent).toBe(false)
    expect(await metric(hub, 'hub_mqtt_queued')).toBe(0)
    const reader = await open(hub)
    await reader.client.subscribeAsync('r/#', { qos: 1 })
    await waitFor(() => reader.messages.length === 2)
    expect(reader.messages.map(({ topic, text, retain }) => [topic, text, retain]).sort()).toEqual([
      ['r//level', 'empty', true],
      ['r/kept', 'two', true],
    ])
    const { messages, sessionPresent } = await open(hub, remembered('s'))
    expect(sessionPresent).toBe(true)
    await reader.client.publishAsync('b/1', 'no', { qos: 2 })
    await reader.client.publishAsync('a/1', 'yes', { qos: 2 })
    await waitFor(() => messages.length > 0)
    expect(messages.map(({ text, qos }) => [text, qos])).toEqual([['yes', 1]])
    await reader.client.subscribeAsync('devices/+/status')
    const told = () => reader.messages.filter(({ topic }) => topic === 'devices/d/status')
    await waitFor(() => told().some(({ text }) => JSON.parse(text).state === 'offline'))
  })

  test('a message comes again under its identifier, with DUP; one of QoS 2 that was received is only released', async () => {
    let hub = await startHubProcess()
    const { client } = await open(hub)
    const send = async (clientId: string, qos: 1 | 2) => {
      const subscriber = await openRaw(hub, clientId)
      subscriber.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: clientId, qos }] } as Packet)
      await subscriber.next('suback')
      await client.publishAsync(clientId, 'text', { qos })
      const { messageId } = await subscriber.next('publish')
      return { subscriber, messageId }
    }
    const received = await send('received', 2)
    received.subscriber.send({ cmd: 'pubrec', messageId: received.messageId } as Packet)
    await received.subscriber.next('pubrel')
    const openOne = await send('again1', 1)
    const openTwo = await send('again2', 2)
    // A commit after them, so that the identifiers are on disk.
    await client.publishAsync('devices/d/telemetry', '{"t":1}', { qos: 1 })
    hub = await killAndRestart(hub)
    const second = await openRaw(hub, 'received')
    expect(await second.next('pubrel')).toMatchObject({ messageId: received.messageId })
    expect(await metric(hub, 'hub_mqtt_queued')).toBe(3)
    second.send({ cmd: 'pubcomp', messageId: received.messageId } as Packet)
    await waitFor(async () => (await metric(hub, 'hub_mqtt_queued')) === 2)
    expect(second.packets.map(({ cmd }) => cmd)).toEqual(['connack', 'pubrel'])
    for (const [qos, { messageId }] of [
      [1, openOne],
      [2, openTwo],
    ] as const) {
      const again = await openRaw(hub, `again${qos}`)
      expect(await again.next('publish')).toMatchObject({ messageId, dup: true, qos })
    }
  })

  test('the will of a connection that died with the hub is published, and kept once', async () => {
    let hub = await startHubProcess()
    const listener = await open(hub, remembered('listener'))
    await listener.client.subscribeAsync('wills/#', { qos: 1 })
    await listener.client.endAsync()
    const will = { topic: 'wills/a', payload: Buffer.from('gone'), qos: 1 as const, retain: false }
    const telemetry = {
      topic: 'devices/a/telemetry',
      payload: Buffer.from('{"gone":true}'),
      qos: 1 as const,
      retain: false,
    }
    await open(hub, { clientId: 'a', will })
    await open(hub, { clientId: 'b', will: telemetry })
    const { client } = await open(hub)
    await client.publishAsync('devices/d/telemetry', '{"t":1}', { qos: 1 })
    hub = await killAndRestart(hub)
    const { messages } = await open(hub, remembered('listener'))
    await waitFor(() => messages.length > 0)
    expect(await waitFor(async () => (await fetch(`${hub.http}/v1/devices/a`)).ok)).toBe(true)
    hub = await killAndRestart(hub)
    const again = await open(hub, remembered('listener'))
    const { client: sender } = await open(hub)
    await sender.publishAsync('wills/end', 'end', { qos: 1 })
    await waitFor(() => again.messages.some(({ text }) => text === 'end'))
    expect(again.messages.filter(({ text, dup }) => text === 'gone' && !dup)).toEqual([])
  })
})

describe('a session', () => {
  test('is forgotten after its time, whole and on disk, and not while it is in use', async () => {
    let hub = await startHubProcess({ args: ['--session-expiry', '1s'] })
    const first = await open(hub, remembered('used'))
    await first.client.subscribeAsync('x', { qos: 1 })
    // Taken over by the same client: the end of the old connection is not the end of the session.
    const used = await open(hub, remembered('used'))
    const gone = await open(hub, remembered('gone'))
    await gone.client.subscribeAsync('y', { qos: 1 })
    await gone.client.endAsync()
    const { client } = await open(hub)
    await client.publishAsync('y', 'text', { qos: 1 })
    await waitFor(async () => (await metric(hub, 'hub_mqtt_sessions_expired_total')) === 1)
    expect(await metric(hub, 'hub_mqtt_queued')).toBe(0)
    await client.publishAsync('x', 'text', { qos: 1 })
    await waitFor(() => used.messages.length === 1)
    await client.publishAsync('devices/d/telemetry', '{"t":1}', { qos: 1 })
    hub = await killAndRestart(hub)
    expect((await open(hub, remembered('gone'))).sessionPresent).toBe(false)
  })

  test('too many is refused with code 3, and works for those that are there, also without subscriptions', async () => {
    const hub = await startHubProcess({ args: ['--max-sessions', '2'] })
    await open(hub, remembered('one'))
    const two = await open(hub, remembered('two'))
    expect(two.sessionPresent).toBe(false)
    await two.client.endAsync()
    expect((await open(hub, remembered('three'))).code).toBe(3)
    expect(await open(hub, remembered('two'))).toMatchObject({ code: 0, sessionPresent: true })
    expect((await open(hub, { clientId: 'three' })).code).toBe(0)
  })
})

describe('messages that wait', () => {
  /** Ten for somebody who is away, of whom so many stay; what goes shows in the counter. */
  async function overflow(hub: HubProcess, name: string, size: number, left: number, counter: string): Promise<void> {
    const away = await open(hub, remembered(name))
    await away.client.subscribeAsync(name, { qos: 1 })
    await away.client.endAsync()
    const before = await metric(hub, counter)
    const { client } = await open(hub)
    for (let n = 0; n < 10; n++) await client.publishAsync(name, String(n).padEnd(size), { qos: 1 })
    await waitFor(async () => (await metric(hub, counter)) === before + 10 - left)
    expect(await metric(hub, 'hub_mqtt_queued')).toBe(left)
    const { messages } = await open(hub, remembered(name))
    await waitFor(() => messages.length === left)
    // The newest ones.
    expect(messages.map(({ text }) => text.trim())).toEqual(
      Array.from({ length: left }, (_, i) => String(10 - left + i)),
    )
    await waitFor(async () => (await metric(hub, 'hub_mqtt_queued')) === 0)
  }

  boundedTest('are bounded by count, by bytes of one and of all; what goes is counted', async ({ hub }) => {
    await overflow(hub, 'many', 1, 5, 'hub_mqtt_queue_dropped_total')
    await overflow(hub, 'large', 500, 3, 'hub_mqtt_queue_dropped_total')
    const before = await metric(hub, 'hub_mqtt_queue_dropped_total')
    for (const name of ['one', 'other']) {
      const away = await open(hub, remembered(name))
      await away.client.subscribeAsync(name, { qos: 1 })
      await away.client.endAsync()
    }
    const { client } = await open(hub)
    for (const name of ['one', 'other']) {
      for (let n = 0; n < 3; n++) await client.publishAsync(name, String(n).padEnd(500), { qos: 1 })
    }
    expect(await metric(hub, 'hub_mqtt_queue_dropped_total')).toBe(before + 2)
    expect(await metric(hub, 'hub_mqtt_queued')).toBe(4)
    const arrived = await Promise.all(['one', 'other'].map((name) => open(hub, remembered(name))))
    await waitFor(() => arrived.flatMap(({ messages }) => messages).length === 4)
    // The newest ones of each.
    for (const { messages } of arrived) expect(messages.at(-1)?.text.trim()).toBe('2')
    await waitFor(async () => (await metric(hub, 'hub_mqtt_queued')) === 0)
  })

  test('are bounded by age; what goes is counted', async () => {
    const hub = await startHubProcess({ args: ['--max-queued-age', '1s'] })
    await overflow(hub, 'x', 500, 0, 'hub_mqtt_queue_expired_total')
  })

  boundedTest('retained messages are bounded by count and by bytes; what goes is counted', async ({ hub }) => {
    const { client } = await open(hub)
    const keep = (n: number, text: string) => client.publishAsync(`r/${n}`, text, { qos: 1, retain: true })
    const figures = async () => [
      await metric(hub, 'hub_mqtt_retained'),
      await metric(hub, 'hub_mqtt_retained_dropped_total'),
    ]
    for (let n = 0; n < 5; n++) await keep(n, 'x'.repeat(500))
    expect(await figures()).toEqual([3, 2])
    await keep(1, 'y'.repeat(400))
    expect(await figures()).toEqual([3, 2])
    for (let n = 0; n < 5; n++) await keep(n, '')
    for (let n = 0; n < 6; n++) await keep(n, 'x')
    expect(await figures()).toEqual([4, 4])
    await keep(1, 'y')
    expect(await figures()).toEqual([4, 4])
  })
})
