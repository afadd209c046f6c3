import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { connectAsync } from 'mqtt'
import { generate, type Packet, parser } from 'mqtt-packet'
import { expect, onTestFinished, test } from 'vitest'
import WebSocket from 'ws'
import { startProtectedHub } from '../access/protected-hub.ts'
import {
  type HubProcess,
  hubTestWith,
  rawClient,
  readFigures,
  readWholeHistory,
  startHubProcess,
  waitFor,
} from '../hub-process.ts'

const publish = (topic: string, payload: string, messageId: number, qos: 0 | 1 | 2 = 1) =>
  generate({ cmd: 'publish', topic, payload, qos, messageId, dup: false, retain: false })
const hello = (clientId: string, password = '') =>
  generate({
    cmd: 'connect',
    clientId,
    protocolVersion: 4,
    clean: true,
    keepalive: 0,
    username: 'u',
    password: Buffer.from(password),
  })
const ping = generate({ cmd: 'pingreq' })

const startWith = (...args: string[]) => startHubProcess({ args })

/** Limits that do not get in each other's way. */
const limitedTest = hubTestWith(
  ...['--connect-timeout', '2s', '--max-control-size', '1KiB', '--max-packet-size', '8KiB', '--max-control-rate', '20'],
  ...['--max-topic-levels', '4', '--max-topic-length', '64B', '--max-open-exchanges', '1100', '--session-expiry', '1s'],
)
const roomyTest = hubTestWith('--max-subscriptions-per-client', '2500')

/** A socket that has said nothing. Addresses of 127.0.0.0/8 are different peers of the same machine. */
function openSocket(hub: HubProcess, localAddress = '127.0.0.1'): Socket {
  const socket = connect({ port: hub.mqttPort, host: '127.0.0.1', localAddress })
  socket.on('error', () => {})
  onTestFinished(() => void socket.destroy())
  return socket
}

function openWebSocket(hub: HubProcess) {
  const socket = new WebSocket(`ws://127.0.0.1:${hub.httpPort}/mqtt`, 'mqtt')
  socket.on('error', () => {})
  onTestFinished(() => socket.terminate())
  return socket
}

const reached = async (hub: HubProcess, limit: string) =>
  (await readFigures(hub))[`hub_limit_reached_total{limit="${limit}"}`] ?? 0

function answersOf(socket: Socket): Packet[] {
  const answers: Packet[] = []
  const packets = parser({ protocolVersion: 4 })
  packets.on('packet', (packet: Packet) => answers.push(packet))
  socket.on('data', (bytes) => packets.parse(bytes))
  return answers
}

limitedTest(
  'who says nothing, half a CONNECT, or something that is no MQTT is closed, over TCP and WebSocket',
  async ({ hub }) => {
    const before = await reached(hub, 'connectTimeout')
    const silent = openSocket(hub)
    const half = openSocket(hub)
    half.write(hello('half').subarray(0, 9))
    const overHttp = openWebSocket(hub)
    const stranger = openSocket(hub)
    stranger.write('GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n')
    for (const socket of [silent, half, stranger]) socket.resume()
    await Promise.all([...[silent, half, stranger].map((socket) => once(socket, 'close')), once(overHttp, 'close')])
    expect(await reached(hub, 'connectTimeout')).toBe(before + 3)
    expect(hub.output()).toMatch(/the first packet is not CONNECT/)
    await waitFor(async () => (await readFigures(hub)).hub_mqtt_sockets === 0)
  },
)

limitedTest('a stranger may declare less than a client that is known', async ({ hub }) => {
  const large = openSocket(hub)
  large.resume()
  large.write(hello('large', 'x'.repeat(2000)).subarray(0, 10))
  await once(large, 'close')
  expect(await reached(hub, 'maxControlSize')).toBe(1)
  const known = await rawClient(hub, 'known')
  const answers = answersOf(known)
  known.write(publish('devices/d/telemetry', JSON.stringify({ text: 'x'.repeat(3000) }), 1))
  await waitFor(() => answers.some(({ cmd }) => cmd === 'puback'))
  known.write(publish('devices/d/telemetry', JSON.stringify({ text: 'x'.repeat(9000) }), 2))
  await waitFor(async () => (await reached(hub, 'maxPacketSize')) === 1)
  if (!known.closed) await once(known, 'close')
})

test('connections too many are closed before anything is read, and a place that gets free is taken', async () => {
  const hub = await startWith('--max-connections', '5', '--max-connections-per-address', '3')
  const first = [0, 1].map(() => openSocket(hub))
  const third = openWebSocket(hub)
  await waitFor(async () => (await readFigures(hub)).hub_mqtt_sockets === 3)
  const fourth = openSocket(hub).resume()
  await once(fourth, 'close')
  const overHttp = openWebSocket(hub)
  await once(overHttp, 'close')
  expect(await reached(hub, 'maxConnectionsPerAddress')).toBe(2)
  const others = ['127.0.0.2', '127.0.0.3'].map((address) => openSocket(hub, address))
  await waitFor(async () => (await readFigures(hub)).hub_mqtt_sockets === 5)
  await once(openSocket(hub, '127.0.0.4').resume(), 'close')
  expect(await reached(hub, 'maxConnections')).toBe(1)
  third.terminate()
  for (const socket of [...first, ...others]) socket.destroy()
  await waitFor(async () => (await readFigures(hub)).hub_mqtt_sockets === 0)
  await rawClient(hub, 'again')
})

test('connections that come too fast wait for their turn, and one busy address does not take the turns of others', async () => {
  const hub = await startWith('--connect-rate', '20')
  const order: string[] = []
  const open = (localAddress: string, clientId: string) => {
    const socket = openSocket(hub, localAddress)
    socket.write(hello(clientId))
    socket.once('data', () => order.push(clientId))
    return once(socket, 'connect')
  }
  await Promise.all(Array.from({ length: 60 }, (_, i) => open('127.0.0.2', `many${i}`)))
  await waitFor(async () => (await readFigures(hub)).hub_mqtt_sockets === 60)
  await open('127.0.0.3', 'single')
  await waitFor(() => order.length === 61)
  // At the back of one queue it would be the last one.
  expect(order.indexOf('single')).toBeLessThan(50)
  expect(await reached(hub, 'connectRate')).toBeGreaterThan(0)
})

roomyTest('a reconnect storm of a thousand devices passes without waiting', async ({ hub }) => {
  const sockets = Array.from({ length: 1000 }, () => openSocket(hub))
  await Promise.all(
    sockets.map((socket, i) => {
      socket.write(hello(`device${i}`))
      return once(socket, 'data')
    }),
  )
  expect(await readFigures(hub)).toMatchObject({ hub_mqtt_connections: 1000, hub_mqtt_waiting: 0 })
  expect(await reached(hub, 'connectRate')).toBe(0)
})

for (const { flag, limit, rate } of [
  { flag: '--max-message-rate', limit: 'maxMessageRate', rate: '200' },
  { flag: '--max-byte-rate', limit: 'maxByteRate', rate: '20KiB' },
]) {
  test(`beyond ${flag} TCP slows the sender down: all is stored, nobody is cut off, and keep-alive goes on`, async () => {
    const hub = await startWith(flag, rate)
    const begun = performance.now()
    const socket = await rawClient(hub, 'fast', { keepalive: 1 })
    const answers = answersOf(socket)
    const total = 700
    const text = 'x'.repeat(50)
    const packets = Array.from({ length: total }, (_, i) =>
      publish('devices/d/telemetry', JSON.stringify({ ts: 1_700_000_000_000 + i, i, text }), i + 1),
    )
    // Telemetry that somebody hears goes through Aedes, and must be slowed down alike.
    const listener = await connectAsync(hub.mqtt)
    onTestFinished(() => listener.endAsync(true).then(() => {}))
    for (const packet of packets.slice(0, total / 2)) socket.write(packet)
    await waitFor(() => answers.length === total / 2)
    await listener.subscribeAsync('devices/d/telemetry')
    for (const packet of packets.slice(total / 2)) socket.write(packet)
    await waitFor(() => answers.length === total)
    socket.write(ping)
    await waitFor(() => answers.at(-1)?.cmd === 'pingresp')
    // No faster than the rate, but for the burst of one second.
    expect(performance.now() - begun).toBeGreaterThan(2000)
    expect(await readWholeHistory(hub, 'd')).toHaveLength(total)
    expect(await reached(hub, limit)).toBeGreaterThan(0)
  })
}

test('who is not let in within --connect-timeout is disconnected, also while the password is looked at', async () => {
  const hub = await startProtectedHub({ args: ['--connect-timeout', '20ms'] })
  // To look at a chosen password takes several times as long.
  await hub.create({ kind: 'device', name: 'pump', password: 'a password of my own' })
  const socket = openSocket(hub)
  const answers = answersOf(socket)
  socket.write(
    generate({ cmd: 'connect', clientId: 'pump', username: 'pump', password: Buffer.from('a guess'), clean: true }),
  )
  await once(socket, 'close')
  expect(answers).toEqual([])
  const figures = await (await hub.as(hub.admin, '/metrics')).text()
  expect(figures).toMatch(/hub_limit_reached_total\{limit="connectTimeout"\} [1-9]/)
})

limitedTest(
  'a flood of packets that ask for work is slowed down, and one that outruns all answers is cut off',
  async ({ hub }) => {
    const eager = await rawClient(hub, 'eager')
    const answers = answersOf(eager)
    eager.write(Buffer.concat(Array.from({ length: 220 }, () => ping)))
    await waitFor(() => answers.length === 220)
    eager.write(ping)
    await waitFor(() => answers.length === 221)
    expect(await reached(hub, 'maxControlRate')).toBeGreaterThan(0)
    for (const packet of [
      ping,
      generate({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'a', qos: 0 }] }),
      generate({ cmd: 'puback', messageId: 1 }),
      generate({ cmd: 'pubrel', messageId: 1 }),
    ]) {
      const flood = await rawClient(hub, 'flood')
      flood.resume()
      flood.write(Buffer.concat(Array.from({ length: 2000 }, () => packet)))
      await once(flood, 'close')
    }
    expect(hub.output()).toMatch(/far more than 20 packets a second/)
  },
)

limitedTest('topics that are too long or too deep end a publisher, and refuse a subscription', async ({ hub }) => {
  for (const [limit, topic] of [
    ['maxTopicLevels', 'a/b/c/d/e'],
    ['maxTopicLength', 'ü'.repeat(40)],
  ] as const) {
    const before = await reached(hub, limit)
    const publisher = await rawClient(hub, 'publisher')
    publisher.resume()
    publisher.write(publish(topic, 'x', 1))
    await once(publisher, 'close')
    expect(await reached(hub, limit)).toBe(before + 1)
    const subscriber = await connectAsync(hub.mqtt)
    onTestFinished(() => subscriber.endAsync(true).then(() => {}))
    await expect(subscriber.subscribeAsync(topic)).rejects.toThrow()
    expect(await reached(hub, limit)).toBe(before + 2)
  }
})

test('a client has so many subscriptions and no more, all clients together too, whether they are remembered or not', async () => {
  const hub = await startWith('--max-subscriptions', '150', '--max-subscriptions-per-client', '100')
  for (const clean of [true, false]) {
    const subscribe = async (clientId: string, from: number): Promise<{ socket: Socket; granted: number }> => {
      const socket = await rawClient(hub, clientId, { clean })
      const answers = answersOf(socket)
      const subscriptions = Array.from({ length: 120 }, (_, i) => ({ topic: `t/${from + i}`, qos: 1 as const }))
      socket.write(generate({ cmd: 'subscribe', messageId: 1, subscriptions }))
      await waitFor(() => answers.length > 0)
      return { socket, granted: (answers[0] as { granted: number[] }).granted.filter((qos) => qos === 1).length }
    }
    const before = {
      ofOne: await reached(hub, 'maxSubscriptionsPerClient'),
      ofAll: await reached(hub, 'maxSubscriptions'),
    }
    const one = await subscribe('one', 0)
    expect(one.granted).toBe(100)
    const two = await subscribe('two', 1000)
    expect(two.granted).toBe(50)
    expect((await readFigures(hub)).hub_mqtt_subscriptions).toBe(150)
    expect(await reached(hub, 'maxSubscriptionsPerClient')).toBe(before.ofOne + 20)
    expect(await reached(hub, 'maxSubscriptions')).toBe(before.ofAll + 70)
    const answers = answersOf(one.socket)
    one.socket.write(generate({ cmd: 'unsubscribe', messageId: 2, unsubscriptions: ['t/1', 't/2', 'never'] }))
    await waitFor(() => answers.length === 1)
    one.socket.write(generate({ cmd: 'subscribe', messageId: 3, subscriptions: [{ topic: 'other', qos: 1 }] }))
    await waitFor(() => answers.length === 2)
    expect(answers[1]).toMatchObject({ cmd: 'suback', granted: [1] })
    one.socket.destroy()
    await waitFor(async () => (await readFigures(hub)).hub_mqtt_connections === 1)
    // Who is remembered is counted while he is away, and has no more than before when he comes back.
    expect((await readFigures(hub)).hub_mqtt_subscriptions).toBe(clean ? 50 : 149)
    const again = await subscribe('one', 0)
    expect(again.granted).toBe(clean ? 100 : 99)
    expect((await readFigures(hub)).hub_mqtt_subscriptions).toBe(150)
    for (const { socket } of [two, again]) socket.destroy()
    await waitFor(async () => (await readFigures(hub)).hub_mqtt_connections === 0)
  }
})

roomyTest(
  'a SUBSCRIBE with as many filters as a packet can hold keeps others waiting for less than a second',
  async ({ hub }) => {
    const socket = await rawClient(hub, 'greedy', { clean: false })
    const subscribe = (count: number) => {
      const subscriptions = Array.from({ length: count }, (_, i) => ({ topic: `${i}`, qos: 1 as const }))
      return generate({ cmd: 'subscribe', messageId: 1, subscriptions })
    }
    const answers = answersOf(socket)
    const healthy = await connectAsync(hub.mqtt)
    onTestFinished(() => healthy.endAsync(true).then(() => {}))
    let worst = 0
    const packet = subscribe(4_400)
    expect(packet.length).toBeGreaterThan(28 * 1024)
    socket.write(packet)
    await waitFor(async () => {
      const begun = performance.now()
      await healthy.publishAsync('devices/d/telemetry', '{"n":1}', { qos: 1 })
      worst = Math.max(worst, performance.now() - begun)
      return answers.length > 0
    })
    expect(worst).toBeLessThan(1000)
    expect((answers[0] as { granted: number[] }).granted.filter((qos) => qos === 1)).toHaveLength(2_500)
    // A flood of small ones, each of which asks about a session with all of these. A new connection may send them at once.
    const again = await rawClient(hub, 'greedy', { clean: false })
    const answersAgain = answersOf(again)
    const one = generate({ cmd: 'subscribe', messageId: 2, subscriptions: [{ topic: '1', qos: 1 }] })
    again.write(Buffer.concat(Array.from({ length: 1000 }, () => one)))
    worst = 0
    await waitFor(async () => {
      const begun = performance.now()
      await healthy.publishAsync('devices/d/telemetry', '{"n":1}', { qos: 1 })
      worst = Math.max(worst, performance.now() - begun)
      return answersAgain.length === 1000
    })
    expect(worst).toBeLessThan(1000)
    // A larger one is not looked at.
    again.write(subscribe(10_000))
    await new Promise((resolve) => again.once('close', resolve))
    expect(await reached(hub, 'maxControlSize')).toBe(1)
  },
)

limitedTest('a client that never sends PUBREL shows in the figures', async ({ hub }) => {
  for (const topic of ['devices/d/telemetry', 'chat']) {
    const before = await reached(hub, 'maxOpenExchanges')
    const socket = await rawClient(hub, 'forgetful')
    const answers = answersOf(socket)
    const exchanges = (from: number, to: number) =>
      Buffer.concat(Array.from({ length: to - from }, (_, n) => publish(topic, '{"n":1}', from + n, 2)))
    socket.write(exchanges(1, 1101))
    await waitFor(() => answers.length === 1100)
    expect((await readFigures(hub)).hub_mqtt_incoming_qos2).toBe(1100)
    socket.write(exchanges(1101, 1102))
    await once(socket, 'close')
    expect(await reached(hub, 'maxOpenExchanges')).toBe(before + 1)
    await waitFor(async () => (await readFigures(hub)).hub_mqtt_incoming_qos2 === 0)
  }
})

limitedTest('clients that take over from each other and vanish leave nothing behind', async ({ hub }) => {
  const subscribe = generate({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'a/#', qos: 1 }] })
  for (let round = 0; round < 60; round++) {
    const clean = round % 3 === 0
    const connectPacket = generate({
      cmd: 'connect',
      clientId: `same${round % 2}`,
      protocolVersion: 4,
      clean,
      keepalive: 0,
    })
    // Comes once, and is gone before it is let in.
    const vanishing = openSocket(hub)
    const vanished = generate({ cmd: 'connect', clientId: `gone${round}`, protocolVersion: 4, clean: false })
    vanishing.on('connect', () => vanishing.write(vanished, () => vanishing.resetAndDestroy()))
    const sockets = Array.from({ length: 4 }, () => openSocket(hub))
    for (const [i, socket] of sockets.entries()) {
      socket.write(Buffer.concat([connectPacket, subscribe, publish(`devices/p${i}/telemetry`, '{"n":1}', 2)]))
      if (i % 2 === 0) setImmediate(() => socket.destroy())
      else socket.once('data', () => socket.destroy())
    }
    await Promise.all(sockets.map((socket) => socket.closed || once(socket, 'close')))
  }
  await waitFor(async () => (await readFigures(hub)).hub_mqtt_sockets === 0)
  await waitFor(async () => (await readFigures(hub)).hub_devices_online === 0)
  await waitFor(async () => (await readFigures(hub)).hub_mqtt_sessions === 0)
  const left = { hub_mqtt_queued: 0, hub_mqtt_incoming_qos2: 0, hub_mqtt_wills: 0 }
  expect(await readFigures(hub)).toMatchObject({ hub_mqtt_connections: 0, hub_mqtt_subscriptions: 0, ...left })
})

test('with all files in use, new connections are turned away, and the hub goes on when there are files again', async () => {
  const hub = await startHubProcess({ shell: 'ulimit -n 300' })
  const healthy = await connectAsync(hub.mqtt)
  onTestFinished(() => healthy.endAsync(true).then(() => {}))
  const sockets = Array.from({ length: 600 }, () => openSocket(hub))
  await Promise.all(sockets.map((socket) => once(socket, 'connect')))
  await healthy.publishAsync('devices/d/telemetry', '{"n":1}', { qos: 1 })
  for (const socket of sockets) socket.destroy()
  await waitFor(async () => (await readWholeHistory(hub, 'd').catch(() => [])).length === 1)
})
