import { once } from 'node:events'
import { connect as connectSocket } from 'node:net'
import type { Duplex } from 'node:stream'
import { generate, type IPublishPacket, type Packet, parser, type QoS } from 'mqtt-packet'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createWebSocketStream, WebSocket } from 'ws'
import { type HubProcess, hubTest, readFigures, startHubProcess, waitFor } from '../hub-process.ts'

type Published = IPublishPacket & { messageId?: number }

interface Options {
  clean?: boolean
  over?: 'tcp' | 'websocket'
  /** Acknowledges what it gets. */
  answers?: boolean
  onPublish?(packet: Published): void
}

function stream(hub: HubProcess, over: 'tcp' | 'websocket'): Duplex {
  if (over === 'tcp') return connectSocket(hub.mqttPort, '127.0.0.1')
  return createWebSocketStream(new WebSocket(`ws://127.0.0.1:${hub.httpPort}/mqtt`, 'mqtt'))
}

/** A client made of packets. */
async function open(hub: HubProcess, clientId: string, options: Options = {}) {
  const { clean = true, over = 'tcp', answers = false, onPublish } = options
  const socket = stream(hub, over)
  onTestFinished(() => void socket.destroy())
  socket.on('error', () => {})
  const packets: Packet[] = []
  const parsing = parser()
  const send = (...all: Packet[]) => void socket.write(Buffer.concat(all.map((packet) => generate(packet))))
  parsing.on('packet', (packet) => {
    packets.push(packet)
    const { cmd, messageId } = packet
    if (cmd === 'publish') onPublish?.(packet)
    if (!answers) return
    if (cmd === 'publish' && packet.qos > 0) send({ cmd: packet.qos === 1 ? 'puback' : 'pubrec', messageId } as Packet)
    if (cmd === 'pubrel') send({ cmd: 'pubcomp', messageId } as Packet)
    if (cmd === 'pubrec') send({ cmd: 'pubrel', messageId } as Packet)
  })
  socket.on('data', (chunk) => parsing.parse(chunk))
  const all = <C extends Packet['cmd']>(cmd: C) =>
    packets.filter((packet): packet is Extract<Packet, { cmd: C }> => packet.cmd === cmd)
  const next = <C extends Packet['cmd']>(cmd: C, count = 1) => waitFor(() => all(cmd)[count - 1])
  send({ cmd: 'connect', clientId, clean, protocolVersion: 4, keepalive: 0 } as Packet)
  await next('connack')
  return {
    socket,
    packets,
    all,
    send,
    next,
    texts: () => all('publish').map(({ payload }) => String(payload)),
    async subscribe(...filters: [topic: string, qos: QoS][]) {
      const before = all('suback').length
      send({ cmd: 'subscribe', messageId: 1, subscriptions: filters.map(([topic, qos]) => ({ topic, qos })) } as Packet)
      await next('suback', before + 1)
    },
    async end() {
      socket.destroy()
      if (!socket.closed) await once(socket, 'close')
    },
  }
}

function message(topic: string, payload: string, qos: QoS, rest: Partial<Published> = {}): Packet {
  return { cmd: 'publish', topic, payload, qos, messageId: 1, retain: false, dup: false, ...rest } as Packet
}

const seen = ({ topic, payload, qos, retain, dup }: Published) => [topic, String(payload), qos, retain, dup]

hubTest('each message comes once, in its order, at the QoS of the filters, whatever comes with it', async ({ hub }) => {
  const sender = await open(hub, 'sender', { answers: true })

  // A retained message needs more steps in the broker than the one after it.
  const loose = await open(hub, 'loose')
  await loose.subscribe(['#', 0])
  sender.send(message('r/1', 'kept', 0, { retain: true }), message('r/1', 'plain', 0, { messageId: 2 }))
  const exact = await open(hub, 'exact', { clean: false })
  await exact.subscribe(['a/#', 2])
  sender.send(
    message('a/1', 'one', 2, { retain: true, messageId: 3, dup: true }),
    message('a/1', 'two', 2, { messageId: 4 }),
    message('a/1', 'three', 1, { retain: true, messageId: 5, dup: true }),
    message('a/1', 'four', 1, { messageId: 6 }),
  )
  await exact.next('publish', 4)
  await loose.next('publish', 6)
  expect(loose.texts().slice(0, 2)).toEqual(['kept', 'plain'])
  // RETAIN is for answers to SUBSCRIBE, and DUP was the publisher's. [MQTT-3.3.1-3], [MQTT-3.3.1-9]
  for (const { retain, dup } of [...loose.all('publish'), ...exact.all('publish')])
    expect([retain, dup]).toEqual([false, false])
  for (const qos of [1, 2]) {
    const texts = exact
      .all('publish')
      .filter((packet) => packet.qos === qos)
      .map(({ payload }) => String(payload))
    expect(texts).toEqual(qos === 1 ? ['three', 'four'] : ['one', 'two'])
  }
  const identifiers = exact.all('publish').map(({ messageId }) => messageId)
  expect(new Set(identifiers).size).toBe(4)
  await exact.end()

  // What is retained is answered at QoS 2 too, and goes on to its end. The topic has another message by now.
  sender.send(message('a/2', 'retained', 2, { retain: true, messageId: 7 }))
  await sender.next('pubcomp', 3)
  const late = await open(hub, 'late', { clean: false, answers: true })
  await late.subscribe(['a/2', 2])
  await late.next('pubrel')
  expect(late.all('publish').map(seen)).toEqual([['a/2', 'retained', 2, true, false]])

  // Filters that overlap.
  const filters: [string, QoS][][] = [
    [
      ['o/#', 0],
      ['o/x', 1],
    ],
    [
      ['o/x', 1],
      ['o/#', 0],
    ],
    [
      ['o/+', 0],
      ['#', 1],
      ['o/#', 0],
    ],
  ]
  const listeners = await Promise.all(
    filters.flatMap((own, index) =>
      [true, false].map(async (clean) => {
        const listener = await open(hub, `overlap-${index}-${clean}`, { clean, answers: true })
        for (const filter of own) await listener.subscribe(filter)
        return listener
      }),
    ),
  )
  sender.send(
    message('o/x', 'high', 2, { messageId: 8 }),
    message('o/x', 'low', 0),
    message('o/x', 'end', 1, { messageId: 9 }),
  )
  for (const listener of listeners) {
    const own = () => listener.all('publish').filter(({ topic }) => topic === 'o/x')
    await waitFor(() => own().length >= 3)
    expect(
      own()
        .map(({ payload, qos }) => `${payload} ${qos}`)
        .sort(),
    ).toEqual(['end 1', 'high 1', 'low 0'])
  }
  // It is acknowledged by all who are here, and nothing else stays behind.
  await exact.end()
  await waitFor(async () => (await readFigures(hub)).hub_mqtt_queued === 4 + 1)
  expect(late.socket.destroyed).toBe(false)
  // Nobody who is remembered hears what others are about.
  for (const clientId of ['exact', 'late', ...filters.map((_, index) => `overlap-${index}-false`)]) {
    await (await open(hub, clientId)).end()
  }
  expect((await readFigures(hub)).hub_mqtt_queued).toBe(0)
})

describe.each(['tcp', 'websocket'] as const)('a session over %s', (over) => {
  hubTest(
    'gets everything in order, and once at QoS 2, while messages come in and its connections break',
    async ({ hub }) => {
      const got: Record<string, string[]> = { '1': [], '2': [] }
      const known = new Set<number>()
      let total = 0
      const take = (packet: Published) => {
        total++
        const text = String(packet.payload)
        if (packet.qos === 1) got['1']?.push(text)
        // An identifier of a message that was received and not released stands for that message. [MQTT-4.3.3-2]
        if (packet.qos === 2 && !known.has(packet.messageId as number)) {
          known.add(packet.messageId as number)
          got['2']?.push(text)
        }
      }
      const come = async () => {
        const client = await open(hub, `session-${over}`, { clean: false, over, answers: true, onPublish: take })
        client.socket.on('data', () => {
          for (const { messageId } of client.all('pubrel')) known.delete(messageId as number)
        })
        return client
      }
      const first = await come()
      await first.subscribe([over, 2])
      await first.end()
      const sender = await open(hub, 'sender', { answers: true })
      let n = 0
      let acknowledged = 0
      const publish = (count: number) => {
        const messages = Array.from({ length: count }, () => {
          n++
          return message(over, `${n}`, n % 2 === 0 ? 2 : 1, { messageId: (n % 65_535) + 1 })
        })
        sender.send(...messages)
      }
      sender.socket.on('data', () => {
        acknowledged = sender.all('puback').length + sender.all('pubcomp').length
      })
      // Some wait when it comes, and more follow all the time.
      publish(400)
      await waitFor(() => acknowledged === n)
      for (let round = 0; round < 8; round++) {
        const before = total
        const client = await come()
        publish(40)
        await waitFor(() => total >= before + 40)
        publish(20)
        await client.end()
      }
      const last = await come()
      publish(100)
      await waitFor(async () => acknowledged === n && (await readFigures(hub)).hub_mqtt_queued === 0)
      expect(last.socket.destroyed).toBe(false)
      expect(hub.output()).not.toContain('no such packet')
      const odd = Array.from({ length: n / 2 }, (_, i) => `${2 * i + 1}`)
      expect(got['2']).toEqual(odd.map((text) => `${Number(text) + 1}`))
      // At QoS 1 some come again, but the first time of each is in the order of its publisher. [MQTT-4.6.0-6]
      expect([...new Set(got['1'])]).toEqual(odd)
    },
  )
})

test('a queue that overflows takes nobody off the line, and costs only who does not read or answer', async () => {
  const hub = await startHubProcess({ args: ['--max-queued', '10'] })
  const reader = await open(hub, 'reader', { clean: false, answers: true })
  const silent = await open(hub, 'silent', { clean: false })
  for (const client of [reader, silent]) await client.subscribe(['x', 2])
  const sender = await open(hub, 'sender', { answers: true })
  sender.send(...Array.from({ length: 20 }, (_, n) => message('x', `${n}`, 2, { messageId: n + 1 })))
  await reader.next('pubrel', 20)
  expect(reader.texts()).toEqual(Array.from({ length: 20 }, (_, n) => `${n}`))
  await silent.next('publish', 20)
  // Its PUBREC for one that has had to go meanwhile is answered all the same.
  silent.send({ cmd: 'pubrec', messageId: silent.all('publish')[0]?.messageId } as Packet)
  await silent.next('pubrel')
  await waitFor(async () => (await readFigures(hub)).hub_mqtt_queued === 10)
  expect((await readFigures(hub)).hub_mqtt_connections).toBe(3)
})
