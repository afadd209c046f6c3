import { once } from 'node:events'
import { connect } from 'node:net'
import { connect as connectMqtt, type IClientOptions, type MqttClient } from 'mqtt'
import { generate, type Packet, parser } from 'mqtt-packet'
import { describe, expect, onTestFinished } from 'vitest'
import WebSocket from 'ws'
import { type HubProcess, hubTest, rawClient, readFigures, readWholeHistory, waitFor } from './hub-process.ts'

interface Message {
  topic: string
  text: string
  qos: number
  retain: boolean
  dup: boolean
}

async function open(hub: HubProcess, options: IClientOptions = {}, url = hub.mqtt) {
  const client: MqttClient = connectMqtt(url, { reconnectPeriod: 0, ...options })
  client.on('error', () => {})
  const messages: Message[] = []
  client.on('message', (topic, payload, { qos, retain, dup }) => {
    messages.push({ topic, text: payload.toString(), qos, retain, dup })
  })
  onTestFinished(() => client.endAsync(true).then(() => {}))
  // Listened to from the start: what waited for a session may come together with CONNACK.
  await new Promise((resolve, reject) => client.once('connect', resolve).once('error', reject))
  return { client, messages }
}

describe('telemetry over MQTT', () => {
  hubTest(
    'comes in on native, scalar and ThingsBoard topics, at every QoS, over TCP and WebSocket',
    async ({ hub }) => {
      const urls = [hub.mqtt, `ws://127.0.0.1:${hub.httpPort}/mqtt`]
      for (const [i, url] of urls.entries()) {
        const { client } = await open(hub, { clientId: `plain${i}`, username: `tb${i}` }, url)
        for (const qos of [0, 1, 2] as const) {
          await client.publishAsync(`devices/n${i}/telemetry`, JSON.stringify({ qos }), { qos })
        }
        await client.publishAsync(`devices/n${i}/telemetry/door`, 'open', { qos: 1 })
        await client.publishAsync('v1/devices/me/telemetry', '{"t":1}', { qos: 1 })
        await client.publishAsync('v1/gateway/telemetry', `{"g${i}":[{"ts":1732377600000,"values":{"t":2}}]}`, {
          qos: 1,
        })
        const native = await waitFor(async () => {
          const rows = await readWholeHistory(hub, `n${i}`)
          return rows.length === 4 && rows
        })
        expect(native.map(({ values }) => values)).toEqual([{ qos: 0 }, { qos: 1 }, { qos: 2 }, { door: 'open' }])
        expect((await readWholeHistory(hub, `tb${i}`)).map(({ values }) => values)).toEqual([{ t: 1 }])
        expect(await readWholeHistory(hub, `g${i}`)).toEqual([{ ts: 1732377600000, values: { t: 2 } }])
      }
    },
  )

  hubTest('without a user name, the ThingsBoard device is the client id, with MQTT 3.1 too', async ({ hub }) => {
    const { client } = await open(hub, { clientId: 'thing-7', protocolId: 'MQIsdp', protocolVersion: 3 })
    await client.publishAsync('v1/devices/me/telemetry', '{"t":1}', { qos: 1 })
    expect(await readWholeHistory(hub, 'thing-7')).toHaveLength(1)
  })

  hubTest('a message is in every answer as soon as it is acknowledged', async ({ hub }) => {
    const { client } = await open(hub)
    for (let n = 1; n <= 20; n++) {
      await client.publishAsync('devices/answers/telemetry', JSON.stringify({ ts: 1_700_000_000_000 + n, n }), {
        qos: n % 2 === 0 ? 1 : 2,
      })
      expect(await readWholeHistory(hub, 'answers')).toHaveLength(n)
      expect(await hub.get('/v1/devices/answers/telemetry/latest')).toMatchObject({ values: { n: { value: n } } })
    }
  })

  hubTest('acknowledgements of a connection come in the order of its messages, telemetry or not', async ({ hub }) => {
    const socket = await rawClient(hub, 'raw-order')
    const ids: number[] = []
    socket.on('data', (data: Buffer) => {
      for (let i = 0; i + 3 < data.length; i += 4) if (data[i] === 0x40) ids.push(data.readUInt16BE(i + 2))
    })
    const topics = ['devices/o/telemetry', 'other/topic', 'devices/o/wrong']
    const packets = Array.from({ length: 300 }, (_, i) =>
      generate({
        cmd: 'publish',
        topic: topics[i % 3] as string,
        payload: `{"i":${i}}`,
        qos: 1,
        messageId: i + 1,
        dup: false,
        retain: false,
      }),
    )
    socket.write(Buffer.concat(packets))
    await waitFor(() => ids.length === 300)
    expect(ids).toEqual(Array.from({ length: 300 }, (_, i) => i + 1))
  })

  hubTest('a QoS 2 message that is sent again before PUBREL is stored once', async ({ hub }) => {
    const socket = await rawClient(hub, 'raw-twice', { clean: false })
    const publish = (dup: boolean, n = 1) =>
      generate({
        cmd: 'publish',
        topic: 'devices/q/telemetry',
        payload: `{"n":${n}}`,
        qos: 2,
        messageId: 7,
        dup,
        retain: false,
      })
    const seen: string[] = []
    socket.on('data', (data: Buffer) => seen.push(data.toString('hex')))
    socket.write(publish(false))
    await waitFor(() => seen.join('') === '50020007')
    socket.write(publish(true))
    await waitFor(() => seen.join('') === '5002000750020007')
    socket.write(Buffer.from([0x62, 2, 0, 7]))
    await waitFor(() => seen.join('').endsWith('70020007'))
    expect(await readWholeHistory(hub, 'q')).toHaveLength(1)
    // After PUBCOMP the identifier is free, and stands for another message.
    socket.write(publish(false))
    await waitFor(() => seen.join('').endsWith('7002000750020007'))
    expect(await readWholeHistory(hub, 'q')).toHaveLength(2)
    // A device that lost its memory begins with the same identifiers: another message is new and must not be lost.
    socket.write(publish(false, 2))
    await waitFor(() => seen.join('').endsWith('5002000750020007'))
    expect(await readWholeHistory(hub, 'q')).toHaveLength(3)
  })
})

describe('the broker', () => {
  hubTest('gives subscribers live and retained messages, at the lower of both QoS', async ({ hub }) => {
    const sender = await open(hub)
    for (const qos of [0, 1, 2] as const)
      await sender.client.publishAsync(`r/${qos}`, `retained ${qos}`, { qos, retain: true })
    for (const granted of [0, 1, 2] as const) {
      const { client, messages } = await open(hub)
      await client.subscribeAsync('r/#', { qos: granted })
      await waitFor(() => messages.length === 3)
      expect(messages.sort((a, b) => a.topic.localeCompare(b.topic))).toEqual(
        [0, 1, 2].map((qos) => ({
          topic: `r/${qos}`,
          text: `retained ${qos}`,
          qos: Math.min(qos, granted),
          retain: true,
          dup: false,
        })),
      )
      messages.length = 0
      for (const qos of [0, 1, 2] as const) await sender.client.publishAsync(`r/live/${qos}`, 'live', { qos })
      await waitFor(() => messages.length === 3)
      expect(messages.map(({ qos, retain }) => [qos, retain])).toEqual(
        [0, 1, 2].map((qos) => [Math.min(qos, granted), false]),
      )
    }
  })

  hubTest('keeps messages for a persistent session that is away, in their order', async ({ hub }) => {
    const session = { clientId: 'sleeper', clean: false }
    const first = await open(hub, session)
    await first.client.subscribeAsync('q/+', { qos: 1 })
    await first.client.endAsync()
    const sender = await open(hub)
    for (let n = 0; n < 200; n++) await sender.client.publishAsync('q/x', String(n), { qos: 1 })
    const second = await open(hub, session)
    await waitFor(() => second.messages.length === 200)
    expect(second.messages.map(({ text }) => Number(text))).toEqual(Array.from({ length: 200 }, (_, n) => n))
  })

  hubTest('forwards telemetry only after it is stored, with payload and topic as they came', async ({ hub }) => {
    const listener = await open(hub)
    await listener.client.subscribeAsync('devices/#', { qos: 1 })
    const { client } = await open(hub)
    await client.publishAsync('devices/forwarded/telemetry', '{"a":1}', { qos: 1 })
    await waitFor(() => listener.messages.some(({ topic }) => topic === 'devices/forwarded/telemetry'))
    expect(listener.messages.find(({ topic }) => topic === 'devices/forwarded/telemetry')?.text).toBe('{"a":1}')
    expect(await readWholeHistory(hub, 'forwarded')).toHaveLength(1)
  })

  hubTest(
    'tells presence, retained: online with the first telemetry, offline when the last connection ends',
    async ({ hub }) => {
      const listener = await open(hub)
      await listener.client.subscribeAsync('devices/+/status', { qos: 1 })
      const told = () => listener.messages.filter(({ topic }) => topic === 'devices/p/status')
      const [one, two] = [await open(hub), await open(hub)]
      await one.client.publishAsync('devices/p/telemetry', '{"a":1}', { qos: 1 })
      await two.client.publishAsync('devices/p/telemetry', '{"a":2}', { qos: 1 })
      await waitFor(() => told().length === 1)
      expect(JSON.parse(told()[0]?.text as string)).toMatchObject({
        state: 'online',
        since: expect.any(Number),
      })
      expect(await hub.get('/v1/devices/p')).toMatchObject({ device: 'p', online: true })
      await one.client.endAsync()
      expect(await hub.get('/v1/devices/p')).toMatchObject({ online: true })
      // What the hub says of a device nobody else says, nor unsays.
      for (const qos of [0, 1, 2] as const) {
        await two.client.publishAsync('devices/p/status', '{"state":"on fire"}', { qos, retain: true })
        await two.client.publishAsync('devices/p/status', '', { qos, retain: true })
      }
      await waitFor(async () => {
        const { entries } = await hub.get<{ entries: { origin: string }[] }>('/v1/quarantine')
        return entries.filter(({ origin }) => origin === 'devices/p/status').length === 6
      })
      const early = await open(hub)
      await early.client.subscribeAsync('devices/p/status')
      await waitFor(() => early.messages.length === 1)
      expect(JSON.parse(early.messages[0]?.text as string)).toMatchObject({ state: 'online' })
      await two.client.endAsync(true)
      await waitFor(() => told().length === 2)
      expect(JSON.parse(told()[1]?.text as string)).toMatchObject({ state: 'offline' })
      expect(await hub.get('/v1/devices/p')).toMatchObject({ online: false })
      const late = await open(hub)
      await late.client.subscribeAsync('devices/p/status')
      await waitFor(() => late.messages.length === 1)
      expect(late.messages[0]).toMatchObject({ retain: true })
      expect(JSON.parse(late.messages[0]?.text as string)).toMatchObject({ state: 'offline' })
    },
  )

  hubTest('a will with telemetry is stored like any other message', async ({ hub }) => {
    const { client } = await open(hub, {
      will: { topic: 'devices/w/telemetry', payload: Buffer.from('{"last":1}'), qos: 1, retain: false },
    })
    client.stream.destroy()
    await waitFor(async () => (await hub.get<{ devices: unknown[] }>('/v1/devices?devices=w')).devices.length === 1)
    expect((await readWholeHistory(hub, 'w')).map(({ values }) => values)).toEqual([{ last: 1 }])
  })

  hubTest('one stalled subscriber never delays a publisher or another subscriber', async ({ hub }) => {
    const { hub_mqtt_dropped_total: before } = await readFigures(hub)
    const stalled = await rawClient(hub, 'stalled')
    stalled.write(generate({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: '#', qos: 0 }] }))
    await once(stalled, 'data')
    stalled.pause()
    const healthy = await open(hub)
    await healthy.client.subscribeAsync('flood', { qos: 0 })
    const { client } = await open(hub)
    const payload = Buffer.alloc(100_000, 'x')
    // Five times what a socket and the kernel hold for one who does not read.
    for (let n = 0; n < 200; n++) {
      await client.publishAsync('flood', payload, { qos: 1 })
      await client.publishAsync('devices/f/telemetry', JSON.stringify({ ts: 1_700_000_000_000 + n, n }), { qos: 1 })
    }
    await waitFor(() => healthy.messages.length === 200)
    expect(await readWholeHistory(hub, 'f')).toHaveLength(200)
    expect((await readFigures(hub)).hub_mqtt_dropped_total).toBeGreaterThan(before as number)
  })

  hubTest('refuses what MQTT forbids, and stays there for everybody else', async ({ hub }) => {
    const healthy = await open(hub)
    const publish = (topic: string | Buffer, messageId: number) => {
      const name = Buffer.from(topic as string)
      const body = Buffer.concat([
        Buffer.from([name.length >> 8, name.length & 255]),
        name,
        Buffer.from([0, messageId]),
        Buffer.from('x'),
      ])
      return Buffer.concat([Buffer.from([0x32, body.length]), body])
    }
    const hostile: Record<string, Buffer> = {
      'a wildcard in a topic': publish('a/+/b', 1),
      'a reserved topic': publish('$SYS/x', 1),
      'a NUL in a topic': publish('a\u0000b', 1),
      'broken UTF-8 in a topic': publish(Buffer.from([0x61, 0xff, 0x62]), 1),
      'packet identifier 0': publish('a', 0),
      'packet identifier 0 in PUBREL': Buffer.from([0x62, 2, 0, 0]),
      'packet identifier 0 in SUBSCRIBE': Buffer.from([0x82, 6, 0, 0, 0, 1, 0x61, 0]),
      'an UNSUBSCRIBE without filters': Buffer.from([0xa2, 2, 0, 1]),
      'QoS 2 without an identifier': Buffer.from([0x34, 3, 0, 1, 0x61]),
      'a packet that claims to be huge': Buffer.from([0x32, 0xff, 0xff, 0xff, 0x7f]),
      'both QoS bits': Buffer.from([0x36, 0x00]),
      'a second CONNECT': generate({ cmd: 'connect', clientId: 'again', protocolVersion: 4, clean: true }),
    }
    for (const [name, bytes] of Object.entries(hostile)) {
      const socket = await rawClient(hub, 'hostile')
      const closed = once(socket, 'close')
      socket.resume()
      socket.write(bytes)
      await closed
      await healthy.client.publishAsync('devices/h/telemetry', JSON.stringify({ name }), { qos: 1 })
    }
    expect(await readWholeHistory(hub, 'h')).toHaveLength(Object.keys(hostile).length)
    const texts = new WebSocket(`ws://127.0.0.1:${hub.httpPort}/mqtt`, 'mqtt')
    onTestFinished(() => texts.terminate())
    await once(texts, 'open')
    let answered = false
    texts.on('message', () => {
      answered = true
    })
    texts.send(
      generate({ cmd: 'connect', clientId: 'texts', protocolVersion: 4, clean: true, keepalive: 0 }).toString(),
    )
    await once(texts, 'close')
    expect(answered).toBe(false)
  })

  hubTest('refuses a subscription with a malformed filter, and a nameless persistent session', async ({ hub }) => {
    const socket = await rawClient(hub, 'filters')
    socket.write(
      generate({
        cmd: 'subscribe',
        messageId: 1,
        subscriptions: [
          { topic: 'ok/+', qos: 1 },
          { topic: 'a+', qos: 1 },
        ],
      }),
    )
    const [suback] = (await once(socket, 'data')) as [Buffer]
    expect([...suback]).toEqual([0x90, 4, 0, 1, 1, 0x80])
    // A filter that comes twice has two answers, and the last one counts.
    const twice = ['twice', 'a+', 'twice', 'a+'].map((topic, i) => ({ topic, qos: (i > 1 ? 1 : 0) as 0 | 1 }))
    socket.write(generate({ cmd: 'subscribe', messageId: 2, subscriptions: twice }))
    expect([...((await once(socket, 'data')) as [Buffer])[0]]).toEqual([0x90, 6, 0, 2, 0, 0x80, 1, 0x80])
    socket.write(
      generate({ cmd: 'publish', topic: 'twice', payload: 'x', qos: 1, messageId: 3, dup: false, retain: false }),
    )
    const received: Packet[] = []
    const packets = parser()
    packets.on('packet', (packet) => received.push(packet))
    socket.on('data', (bytes) => packets.parse(bytes))
    await waitFor(() => received.length === 2)
    expect(received.find(({ cmd }) => cmd === 'publish')).toMatchObject({ topic: 'twice', qos: 1 })
    const nameless = connect(hub.mqttPort, '127.0.0.1')
    nameless.on('error', () => {})
    nameless.write(Buffer.from([0x10, 12, 0, 4, 0x4d, 0x51, 0x54, 0x54, 4, 0, 0, 60, 0, 0]))
    const [connack] = (await once(nameless, 'data')) as [Buffer]
    expect([...connack]).toEqual([0x20, 2, 0, 2])
    // MQTT 3.1 knows no client without a name.
    const old = connect(hub.mqttPort, '127.0.0.1')
    old.on('error', () => {})
    old.write(Buffer.from([0x10, 14, 0, 6, ...Buffer.from('MQIsdp'), 3, 2, 0, 60, 0, 0]))
    const [refused] = (await once(old, 'data')) as [Buffer]
    expect([...refused]).toEqual([0x20, 2, 0, 2])
  })
})
