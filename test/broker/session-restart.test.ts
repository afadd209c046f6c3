import { once } from 'node:events'
import { connect as connectSocket, type Socket } from 'node:net'
import { connect, type IClientOptions, type MqttClient } from 'mqtt'
import { generate, type Packet, parser } from 'mqtt-packet'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type HubProcess, startHubProcess, waitFor } from '../hub-process.ts'

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

  test('retained messages are there, and those that were deleted are not', async () => {
    let hub = await startHubProcess()
    const { client } = await open(hub)
    await client.publishAsync('a/kept', 'one', { qos: 1, retain: true })
    await client.publishAsync('a/kept', 'two', { qos: 2, retain: true })
    await client.publishAsync('a//level', 'empty', { qos: 1, retain: true })
    await client.publishAsync('a/gone', 'three', { qos: 1, retain: true })
    await client.publishAsync('a/gone', '', { qos: 1, retain: true })
    hub = await killAndRestart(hub)
    const { client: reader, messages } = await open(hub)
    await reader.subscribeAsync('a/#', { qos: 1 })
    await waitFor(() => messages.length === 2)
    expect(messages.map(({ topic, text, retain }) => [topic, text, retain]).sort()).toEqual([
      ['a//level', 'empty', true],
      ['a/kept', 'two', true],
    ])
  })

  test('subscriptions are there, at the QoS that was granted, and those that were taken back are not', async () => {
    let hub = await startHubProcess()
    const first = await open(hub, remembered('s'))
    await first.client.subscribeAsync('a/+', { qos: 1 })
    await first.client.subscribeAsync('b/+', { qos: 2 })
    await first.client.unsubscribeAsync('b/+')
    hub = await killAndRestart(hub)
    const { client, messages, sessionPresent } = await open(hub, remembered('s'))
    expect(sessionPresent).toBe(true)
    const { client: sender } = await open(hub)
    await sender.publishAsync('b/1', 'no', { qos: 2 })
    await sender.publishAsync('a/1', 'yes', { qos: 2 })
    await waitFor(() => messages.length > 0)
    expect(messages.map(({ text, qos }) => [text, qos])).toEqual([['yes', 1]])
    await client.endAsync()
  })

  test('a message of QoS 2 that its subscriber had received is not sent anew, only released', async () => {
    let hub = await startHubProcess()
    const first = await openRaw(hub, 'two')
    const subscription = { cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'x', qos: 2 }] } as Packet
    first.send(subscription)
    await first.next('suback')
    const { client } = await open(hub)
    await client.publishAsync('x', 'once', { qos: 2 })
    const { messageId } = await first.next('publish')
    first.send({ cmd: 'pubrec', messageId } as Packet)
    await first.next('pubrel')
    hub = await killAndRestart(hub)
    const second = await openRaw(hub, 'two')
    expect(await second.next('pubrel')).toMatchObject({ messageId })
    second.send({ cmd: 'pubcomp', messageId } as Packet)
    await waitFor(async () => (await metric(hub, 'hub_mqtt_queued')) === 0)
    expect(second.packets.map(({ cmd }) => cmd)).toEqual(['connack', 'pubrel'])
  })

  test('a message that its subscriber had not answered comes again under its identifier, with DUP', async () => {
    let hub = await startHubProcess()
    for (const qos of [1, 2] as const) {
      const first = await openRaw(hub, `again${qos}`)
      first.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: `x${qos}`, qos }] } as Packet)
      await first.next('suback')
      const { client } = await open(hub)
      await client.publishAsync(`x${qos}`, 'text', { qos })
      const { messageId } = await first.next('publish')
      // A commit after it, so that the identifier is on disk.
      await client.publishAsync('devices/d/telemetry', '{"t":1}', { qos: 1 })
      hub = await killAndRestart(hub)
      const second = await openRaw(hub, `again${qos}`)
      expect(await second.next('publish')).toMatchObject({ messageId, dup: true, qos })
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

  test('a device that was online is shown offline', async () => {
    let hub = await startHubProcess()
    const { client } = await open(hub)
    await client.publishAsync('devices/d/telemetry', '{"t":1}', { qos: 1 })
    await client.publishAsync('devices/d/telemetry', '{"t":2}', { qos: 1 })
    hub = await killAndRestart(hub)
    const { client: reader, messages } = await open(hub)
    await reader.subscribeAsync('devices/+/status')
    await waitFor(() => messages.some(({ text }) => JSON.parse(text).state === 'offline'))
  })

  test('a session that begins clean leaves nothing of the one before, on disk neither', async () => {
    let hub = await startHubProcess()
    const first = await open(hub, remembered('s'))
    await first.client.subscribeAsync('x', { qos: 1 })
    await first.client.endAsync()
    const { client } = await open(hub)
    await client.publishAsync('x', 'old', { qos: 1 })
    const clean = await open(hub, { clientId: 's', clean: true })
    expect(clean.sessionPresent).toBe(false)
    await client.publishAsync('devices/d/telemetry', '{"t":1}', { qos: 1 })
    hub = await killAndRestart(hub)
    expect((await open(hub, remembered('s'))).sessionPresent).toBe(false)
    expect(await metric(hub, 'hub_mqtt_queued')).toBe(0)
  })
})

describe('a session', () => {
  test('without subscriptions is present all the same', async () => {
    const hub = await startHubProcess()
    const first = await open(hub, remembered('bare'))
    expect(first.sessionPresent).toBe(false)
    await first.client.endAsync()
    expect((await open(hub, remembered('bare'))).sessionPresent).toBe(true)
  })

  test('is forgotten after its time, whole and on disk', async () => {
    let hub = await startHubProcess({ args: ['--session-expiry', '1s'] })
    const first = await open(hub, remembered('s'))
    await first.client.subscribeAsync('x', { qos: 1 })
    await first.client.endAsync()
    const { client } = await open(hub)
    await client.publishAsync('x', 'text', { qos: 1 })
    await waitFor(async () => (await metric(hub, 'hub_mqtt_sessions_expired_total')) === 1)
    expect(await metric(hub, 'hub_mqtt_queued')).toBe(0)
    await client.publishAsync('devices/d/telemetry', '{"t":1}', { qos: 1 })
    hub = await killAndRestart(hub)
    expect((await open(hub, remembered('s'))).sessionPresent).toBe(false)
  })

  test('that is in use is not forgotten', async () => {
    const hub = await startHubProcess({ args: ['--session-expiry', '1s'] })
    const first = await open(hub, remembered('used'))
    await first.client.subscribeAsync('x', { qos: 1 })
    // Taken over by the same client: the end of the old connection is not the end of the session.
    const { client, messages } = await open(hub, remembered('used'))
    const gone = await open(hub, remembered('gone'))
    await gone.client.endAsync()
    await waitFor(async () => (await metric(hub, 'hub_mqtt_sessions_expired_total')) === 1)
    await client.publishAsync('x', 'text', { qos: 1 })
    await waitFor(() => messages.length === 1)
  })

  test('too many is refused with code 3, and works for those that are there', async () => {
    const hub = await startHubProcess({ args: ['--max-sessions', '2'] })
    await open(hub, remembered('one'))
    const two = await open(hub, remembered('two'))
    await two.client.endAsync()
    expect((await open(hub, remembered('three'))).code).toBe(3)
    expect((await open(hub, remembered('two'))).code).toBe(0)
    expect((await open(hub, { clientId: 'three' })).code).toBe(0)
  })
})

describe('messages that wait', () => {
  test('are bounded by count, by bytes of one and of all, and by age; what goes is counted', async () => {
    const limits: [string[], number, string][] = [
      [['--max-queued', '5'], 5, 'hub_mqtt_queue_dropped_total'],
      [['--max-queued-size', '2KiB'], 3, 'hub_mqtt_queue_dropped_total'],
      [['--max-queued-total', '2KiB'], 3, 'hub_mqtt_queue_dropped_total'],
      [['--max-queued-age', '1s'], 0, 'hub_mqtt_queue_expired_total'],
    ]
    for (const [args, left, counter] of limits) {
      const hub = await startHubProcess({ args })
      const away = await open(hub, remembered('away'))
      await away.client.subscribeAsync('x', { qos: 1 })
      await away.client.endAsync()
      const { client } = await open(hub)
      for (let n = 0; n < 10; n++) await client.publishAsync('x', String(n).padEnd(500), { qos: 1 })
      await waitFor(async () => (await metric(hub, counter)) === 10 - left)
      expect(await metric(hub, 'hub_mqtt_queued')).toBe(left)
      const { messages } = await open(hub, remembered('away'))
      await waitFor(() => messages.length === left)
      // The newest ones.
      expect(messages.map(({ text }) => text.trim())).toEqual(
        Array.from({ length: left }, (_, i) => String(10 - left + i)),
      )
    }
  })

  test('retained messages are bounded by count and by bytes; what goes is counted', async () => {
    for (const args of [
      ['--max-retained', '3'],
      ['--max-retained-size', '1600B'],
    ]) {
      const hub = await startHubProcess({ args })
      const { client } = await open(hub)
      for (let n = 0; n < 5; n++) await client.publishAsync(`r/${n}`, 'x'.repeat(500), { qos: 1, retain: true })
      expect(await metric(hub, 'hub_mqtt_retained')).toBe(3)
      expect(await metric(hub, 'hub_mqtt_retained_dropped_total')).toBe(2)
      await client.publishAsync('r/1', 'y'.repeat(400), { qos: 1, retain: true })
      expect(await metric(hub, 'hub_mqtt_retained_dropped_total')).toBe(2)
    }
  })
})
