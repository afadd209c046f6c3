import { connect } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { startHealthy } from './fuzz/healthy.ts'
import { frame, hostileRequests, upgradeRequest } from './fuzz/http-requests.ts'
import { hostilePackets } from './fuzz/mqtt-packets.ts'
import { readFigures, startHubProcess, waitFor } from './hub-process.ts'
import { createRandom, type Random } from './random.ts'

/** By hand: FUZZ_SECONDS=600 FUZZ_SEED=7. */
const seconds = Number(process.env.FUZZ_SECONDS ?? 3)
const firstSeed = Number(process.env.FUZZ_SEED ?? 1)
const atOnce = 8
/** How long a hostile connection may stay open when the hub does not mind it. */
const patienceMillis = 100

interface Attack {
  port: number
  pieces: Buffer[]
}

const attacks: Record<string, (random: Random, ports: { mqtt: number; http: number }) => Attack> = {
  'MQTT packets over TCP': (random, { mqtt }) => ({ port: mqtt, pieces: [hostilePackets(random)] }),
  'MQTT packets over WebSocket': (random, { http }) => ({
    port: http,
    pieces: [
      upgradeRequest('/mqtt'),
      ...Array.from({ length: random.integer(1, 4) }, () => frame(hostilePackets(random), random)),
    ],
  }),
  'frames to the feed': (random, { http }) => ({
    port: http,
    pieces: [
      upgradeRequest('/v1/feed'),
      ...Array.from({ length: random.integer(1, 6) }, () => frame(hostilePackets(random), random)),
    ],
  }),
  'HTTP requests': (random, { http }) => ({ port: http, pieces: [hostileRequests(random)] }),
}

/** Sends all, whole or in pieces, and leaves: in peace, in the middle, or without a word. */
function run({ port, pieces }: Attack, random: Random): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    const patience = setTimeout(() => socket.destroy(), patienceMillis)
    socket.on('error', () => {})
    socket.on('close', () => {
      clearTimeout(patience)
      resolve()
    })
    if (random.next() < 0.8) socket.resume()
    for (const piece of pieces) {
      const cut = random.integer(0, piece.length)
      socket.write(piece.subarray(0, cut))
      if (random.next() < 0.9) setImmediate(() => socket.write(piece.subarray(cut)))
    }
    const leave = random.pick(['reset', 'end', 'stay', 'stay'])
    if (leave === 'reset') setImmediate(() => socket.resetAndDestroy())
    if (leave === 'end') setImmediate(() => socket.end())
  })
}

test(
  `broken MQTT, frames and HTTP leave the hub well, and its clients served within a second (seed ${firstSeed})`,
  async () => {
    const hub = await startHubProcess({ args: ['--headers-timeout', '2s', '--session-expiry', '1s'] })
    onTestFinished(({ task }) => {
      if (task.result?.state === 'fail') console.log(hub.output().slice(-4000))
    })
    const ports = { mqtt: hub.mqttPort, http: hub.httpPort }
    // The modules of the pages load once, when somebody first looks, which takes a part of a second by itself.
    await hub.get('/openapi.json')
    const before = (await readFigures(hub)).process_resident_memory_bytes as number
    for (const [index, [name, make]] of Object.entries(attacks).entries()) {
      const healthy = await startHealthy(hub, `healthy-${index}`)
      const end = Date.now() + seconds * 1000
      let seed = firstSeed
      const attack = async () => {
        while (Date.now() < end) {
          const random = createRandom(seed++)
          await run(make(random, ports), random)
        }
      }
      await Promise.all(Array.from({ length: atOnce }, attack))
      const { worst, acknowledged, stored } = await healthy.stop()
      expect(stored, name).toBe(acknowledged)
      expect(acknowledged, name).toBeGreaterThan(0)
      expect(worst.mqtt, name).toBeLessThan(1000)
      expect(worst.http, name).toBeLessThan(1000)
      // Nothing of them stays behind.
      await waitFor(async () => (await readFigures(hub)).hub_mqtt_sockets === 0)
      // But for those of this test itself.
      await waitFor(async () => ((await readFigures(hub)).hub_http_connections as number) <= 4)
      await waitFor(async () => (await readFigures(hub)).hub_mqtt_sessions === 0)
      const after = await readFigures(hub)
      expect(after, name).toMatchObject({ hub_mqtt_queued: 0, hub_mqtt_incoming_qos2: 0, hub_mqtt_wills: 0 })
      expect(after, name).toMatchObject({ hub_mqtt_connections: 0, hub_mqtt_subscriptions: 0, hub_http_streams: 0 })
      expect(after.hub_feed_followers, name).toBe(0)
      expect(after.process_resident_memory_bytes, name).toBeLessThan(before + 300e6)
    }
    expect(await hub.kill('SIGTERM')).toBe(0)
  },
  (seconds + 60) * 1000 * Object.keys(attacks).length,
)
