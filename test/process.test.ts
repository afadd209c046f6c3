import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connectAsync } from 'mqtt'
import { describe, expect, onTestFinished, test } from 'vitest'
import { WebSocket } from 'ws'
import { openDatabase } from '../src/store/sqlite/database.ts'
import { mainFile, readWholeHistory, run, startHubProcess, temporaryFolder, waitFor } from './hub-process.ts'

const anyPort = ['--mqtt-port', '0', '--http-port', '0']

describe('starting', () => {
  test('says where everything is, which durability holds, and what to try next', async () => {
    const hub = await startHubProcess()
    await waitFor(() => hub.output().includes('Try'))
    for (const part of [
      hub.mqtt,
      hub.http,
      `${hub.folder}/hub.db`,
      'fsync',
      `mosquitto_pub -p ${hub.mqttPort}`,
      `curl '${hub.http}`,
    ]) {
      expect(hub.output()).toContain(part)
    }
    const os = await startHubProcess({ args: ['--durability', 'os'] })
    await waitFor(() => os.output().includes('not a power cut'))
    expect(await (await fetch(`${os.http}/metrics`)).text()).toContain('durability="os"')
  })

  const refusals: [string, (folder: string) => Promise<string[]>, RegExp][] = [
    [
      'a port in use',
      async (folder) => {
        const server = createServer().listen(0, '127.0.0.1')
        onTestFinished(() => void server.close())
        await new Promise((resolve) => server.once('listening', resolve))
        return [
          '--data',
          folder,
          '--mqtt-port',
          String((server.address() as { port: number }).port),
          '--http-port',
          '0',
        ]
      },
      /^telemetry-hub: port \d+ is in use: .*--mqtt-port.*\n$/,
    ],
    [
      'a folder that cannot be written',
      async (folder) => {
        await writeFile(join(folder, 'file'), '')
        return [...anyPort, '--data', join(folder, 'file', 'data')]
      },
      /^telemetry-hub: cannot write to the folder .*--data.*\n$/,
    ],
    [
      'a database of a newer version',
      async (folder) => {
        const db = openDatabase(join(folder, 'hub.db'))
        db.exec('PRAGMA user_version = 999')
        db.close()
        return [...anyPort, '--data', folder]
      },
      /^telemetry-hub: .*newer telemetry-hub.*--data folder\n$/,
    ],
    [
      'a second hub on the same folder',
      async (folder) => {
        await startHubProcess({ folder })
        return [...anyPort, '--data', folder]
      },
      /^telemetry-hub: another hub is running on the folder .*--data\n$/,
    ],
    [
      'an address beyond this machine',
      async (folder) => [...anyPort, '--data', folder, '--host', '0.0.0.0'],
      /^telemetry-hub: .*this machine only.*\n {2}telemetry-hub token create .*\n {2}telemetry-hub --host .*\n$/,
    ],
    ['an unknown flag', async () => ['--colour', 'red'], /^telemetry-hub: Unknown option '--colour'.*--help\n$/],
    [
      'a value that is none',
      async () => ['--grace', 'soon'],
      /^telemetry-hub: --grace is "soon": expected DURATION, such as 10s\n$/,
    ],
    ...['nosuch.invalid', '192.0.2.1'].map((host): (typeof refusals)[number] => [
      `an address that this machine does not have (${host})`,
      async (folder) => {
        const args = ['--name', 'a', '--role', 'admin', '--data', folder]
        expect((await run(mainFile, ['token', 'create', ...args])).code).toBe(0)
        return [...anyPort, '--data', folder, '--host', host, '--log-level', 'silent']
      },
      /^telemetry-hub: ".*" is no address of this machine: .*--host.*\n$/,
    ]),
    [
      'a file that is no database',
      async (folder) => {
        await writeFile(join(folder, 'hub.db'), 'x'.repeat(5000))
        return [...anyPort, '--data', folder]
      },
      /^telemetry-hub: .*hub\.db is not a sound database \(file is not a database\): .*restore.*\n$/,
    ],
    ['an unknown command', async () => ['launch'], /^telemetry-hub: unknown command "launch".*\n$/],
    [
      'an unknown setting in the file',
      async (folder) => {
        await writeFile(join(folder, 'hub.yaml'), 'mqtPort: 1\n')
        return ['--config', join(folder, 'hub.yaml')]
      },
      /^telemetry-hub: .*unknown setting "mqtPort".*\n$/,
    ],
    [
      'a wrong mapping in the file',
      async (folder) => {
        await writeFile(join(folder, 'hub.yaml'), 'mappings:\n  - topic: a/b\n    codec: json\n')
        return ['--config', join(folder, 'hub.yaml')]
      },
      /^telemetry-hub: .*\{device\} exactly once.*\n$/,
    ],
  ]
  for (const [name, prepare, expected] of refusals) {
    test(`${name} is one line with what to do, and exit code 1`, async () => {
      const { code, stdout, stderr } = await run(mainFile, await prepare(await temporaryFolder()))
      expect(stderr).toMatch(expected)
      expect(stdout).toBe('')
      expect(code).toBe(1)
    })
  }

  test('flags win over variables, variables over the file; "config" shows where each setting came from', async () => {
    const folder = await temporaryFolder()
    await writeFile(
      join(folder, 'hub.yaml'),
      'mqttPort: 1\nhttpPort: 2\ndurability: os\ndata:\nmappings:\n  - topic: zigbee2mqtt/{device}\n',
    )
    const child = spawnSync(
      process.execPath,
      [mainFile, 'config', '--config', join(folder, 'hub.yaml'), '--mqtt-port', '11'],
      {
        env: { ...process.env, HUB_MQTT_PORT: '12', HUB_HTTP_PORT: '13' },
        encoding: 'utf8',
      },
    )
    expect(child.stdout).toMatch(/mqttPort +11 +flag/)
    expect(child.stdout).toMatch(/httpPort +13 +environment/)
    expect(child.stdout).toMatch(/durability +os +\S*hub\.yaml/)
    expect(child.stdout).toMatch(/logRetention +7d +default/)
    // Nothing behind a name in the file is as good as no line.
    expect(child.stdout).toMatch(/data +\.\/data +default/)
    expect(child.stdout).toMatch(/host +127\.0\.0\.1 +default/)
    expect(child.stdout).toMatch(/zigbee2mqtt\/\{device\} → json/)
  })

  test('--help names every setting with its default', async () => {
    const { code, stdout } = await run(mainFile, ['--help'])
    expect(code).toBe(0)
    const { flagName } = await import('../src/config.ts')
    const { settings } = await import('../src/settings.ts')
    for (const { key, initial } of settings)
      expect(stdout).toMatch(new RegExp(`${flagName(key)}.*${initial.replace(/[.]/g, '\\.')}`))
  })

  test('--demo brings devices that push', async () => {
    const hub = await startHubProcess({ args: ['--demo'] })
    await waitFor(async () => {
      const { devices } = await hub.get<{ devices: { online: boolean }[] }>('/v1/devices')
      return devices.length > 5 && devices.every(({ online }) => online)
    })
    expect(await hub.kill('SIGTERM')).toBe(0)
  })
})

describe('mappings', () => {
  test('of the shipped example lead zigbee2mqtt, Tasmota and Shelly devices into history', async () => {
    const example = new URL('../../devices/examples/hub.yaml', import.meta.url).pathname
    const hub = await startHubProcess({ args: ['--config', example] })
    const client = await connectAsync(hub.mqtt)
    onTestFinished(() => client.endAsync(true).then(() => {}))
    const publish = (topic: string, payload: string) => client.publishAsync(topic, payload, { qos: 1 })
    await publish('zigbee2mqtt/kitchen', '{"temperature":22.08,"linkquality":120}')
    await publish('tele/plug/SENSOR', '{"Time":"2024-11-23T17:00:00","ENERGY":{"Power":42}}')
    await publish('tele/plug/STATE', '{"Time":"2024-11-23T17:00:00","POWER":"ON"}')
    await publish('shellies/shelly1pm-1/relay/0/power', '48.12')
    await publish(
      'shellyplus1pm-2/events/rpc',
      '{"method":"NotifyStatus","params":{"ts":1732377600.25,"switch:0":{"apower":8.9}}}',
    )
    await publish('shellyplus1pm-2/status/switch:0', '{"id":0,"output":true}')
    const values = async (device: string) => (await readWholeHistory(hub, device)).map((row) => row.values)
    expect(await values('kitchen')).toEqual([{ temperature: 22.08, linkquality: 120 }])
    expect(await values('plug')).toEqual([{ 'ENERGY.Power': 42 }, { POWER: 'ON' }])
    expect(await values('shelly1pm-1')).toEqual([{ 'relay.0.power': 48.12 }])
    expect(await values('shellyplus1pm-2')).toEqual([{ 'switch:0.apower': 8.9 }, { 'switch:0.output': true }])
  })
})

const strace = spawnSync('strace', ['-V']).status === 0
if (!strace && process.env.CI) throw new Error('CI must have strace')

describe('stopping', () => {
  test('and going on need nobody who reads what the hub says', async () => {
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    await new Promise((resolve) => server.close(resolve))
    const ports = ['--mqtt-port', '0', '--http-port', String(port)]
    const child = spawn(process.execPath, [mainFile, '--data', await temporaryFolder(), ...ports])
    onTestFinished(() => void child.kill('SIGKILL'))
    // Before it has said anything: then the log and the start-up message fail in the same turn.
    child.stdout.destroy()
    child.stderr.destroy()
    const answers = () =>
      fetch(`http://127.0.0.1:${port}/healthz`).then(
        ({ ok }) => ok,
        () => false,
      )
    await waitFor(answers)
    // It says that it is ready after it has listened; by the last of these it has seen that nobody is there.
    for (let i = 0; i < 3; i++) expect(await answers()).toBe(true)
    const exit = once(child, 'exit')
    child.kill('SIGTERM')
    expect(await exit).toEqual([0, null])
  })

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    test(`${signal} under load: exit 0, and everything that was acknowledged is there`, async () => {
      const hub = await startHubProcess()
      const client = await connectAsync(hub.mqtt, { reconnectPeriod: 0 })
      client.on('error', () => {})
      onTestFinished(() => client.endAsync(true).then(() => {}))
      let acknowledged = 0
      let n = 0
      const publish = (): void => {
        const own = ++n
        client.publish(
          'devices/s/telemetry',
          JSON.stringify({ ts: 1_700_000_000_000 + own, n: own }),
          { qos: 1 },
          (error) => {
            if (error) return
            acknowledged++
            publish()
          },
        )
      }
      for (let i = 0; i < 20; i++) publish()
      await waitFor(() => acknowledged > 200)
      expect(await hub.kill(signal)).toBe(0)
      await waitFor(() => hub.output().includes('the hub has stopped'))
      expect(hub.output()).toContain(`${signal}: the hub stops`)
      const again = await startHubProcess({ folder: hub.folder })
      expect((await readWholeHistory(again, 's')).length).toBeGreaterThanOrEqual(acknowledged)
    })
  }

  test.skipIf(!strace)(
    'while clients go on sending over HTTP and the disk is slow: what waits is committed, what comes is refused, exit 0 (skipped where there is no strace)',
    async () => {
      const slow = 'strace -D -f -qq -o /dev/null -e trace=fdatasync,fsync -e inject=fdatasync,fsync:delay_exit=300000'
      const hub = await startHubProcess({ shell: `set -- ${slow} "$@"` })
      let acknowledged = 0
      let n = 0
      const refusals = new Set<number>()
      const keepSending = async (): Promise<void> => {
        for (;;) {
          const own = ++n
          const body = JSON.stringify({ ts: 1_700_000_000_000 + own, n: own })
          const answer = await fetch(`${hub.http}/v1/devices/s/telemetry`, { method: 'POST', body }).catch(() => null)
          if (answer === null) return
          if (answer.ok) acknowledged++
          else refusals.add(answer.status)
        }
      }
      // Out of step, so that some always arrive while the commit of others runs.
      const senders = Array.from({ length: 10 }, async (_, i) => {
        await sleep(i * 30)
        await keepSending()
      })
      await waitFor(() => acknowledged > 30)
      expect(await hub.kill('SIGTERM')).toBe(0)
      await Promise.all(senders)
      expect([...refusals]).toEqual(refusals.size === 0 ? [] : [503])
      const again = await startHubProcess({ folder: hub.folder })
      expect((await readWholeHistory(again, 's')).length).toBeGreaterThanOrEqual(acknowledged)
    },
  )
})

const prlimit = spawnSync('prlimit', ['--version']).status === 0
if (!prlimit && process.env.CI) throw new Error('CI must have prlimit')

describe.skipIf(!prlimit)('storage that fails (skipped where there is no prlimit)', () => {
  test('acknowledges nothing, says so in /readyz and the log, and goes on by itself when it can', async () => {
    // The kernel lets no file of this process grow beyond the limit: to SQLite that is a full disk.
    const folder = await temporaryFolder()
    await mkdir(folder, { recursive: true })
    const hub = await startHubProcess({ folder, shell: "trap '' XFSZ" })
    const limit = (bytes: string) => spawnSync('prlimit', ['--pid', String(hub.pid), `--fsize=${bytes}:unlimited`])
    const client = await connectAsync(hub.mqtt, { keepalive: 0 })
    onTestFinished(() => client.endAsync(true).then(() => {}))
    await client.publishAsync('devices/f/telemetry', '{"ts":1700000000000,"n":0}', { qos: 1 })
    expect(limit('1').status).toBe(0)

    let acknowledged = 0
    const open = [1, 2].map((qos) =>
      client
        .publishAsync('devices/f/telemetry', `{"ts":${1_700_000_000_000 + qos},"n":${qos}}`, { qos: qos as 1 | 2 })
        .then(() => {
          acknowledged++
        }),
    )
    await waitFor(async () => (await fetch(`${hub.http}/readyz`)).status === 503)
    const ready = await fetch(`${hub.http}/readyz`)
    expect(ready.headers.get('retry-after')).not.toBeNull()
    expect(await ready.json()).toMatchObject({ type: 'urn:telemetry-hub:problem:storage-unavailable' })
    expect((await fetch(`${hub.http}/healthz`)).status).toBe(200)
    const refused = await fetch(`${hub.http}/v1/devices/f/telemetry`, {
      method: 'POST',
      body: '{"ts":1700000000009,"n":9}',
    })
    expect(refused.status).toBe(503)
    await waitFor(() => hub.output().includes('storage fails'))
    expect(await (await fetch(`${hub.http}/metrics`)).text()).toMatch(/hub_storage_failing 1/)
    expect(acknowledged).toBe(0)

    expect(limit('unlimited').status).toBe(0)
    await Promise.all(open)
    await waitFor(async () => (await fetch(`${hub.http}/readyz`)).status === 200)
    expect(hub.output()).toContain('storage has recovered')
    expect((await readWholeHistory(hub, 'f')).map(({ values }) => values.n)).toEqual([0, 1, 2])
    await hub.kill('SIGKILL')
    const again = await startHubProcess({ folder })
    expect((await readWholeHistory(again, 'f')).map(({ values }) => values.n)).toEqual([0, 1, 2])
  })

  test('does not keep the hub from stopping: readers are told where they are, and the log what is not stored', async () => {
    const hub = await startHubProcess({ shell: "trap '' XFSZ" })
    const post = (n: number) =>
      fetch(`${hub.http}/v1/devices/f/telemetry`, { method: 'POST', body: `{"ts":${1_700_000_000_000 + n},"n":${n}}` })
    expect((await post(0)).status).toBe(200)
    const client = await connectAsync(hub.mqtt, { reconnectPeriod: 0 })
    onTestFinished(() => client.endAsync(true).then(() => {}))
    const reader = new WebSocket(`${hub.http.replace('http', 'ws')}/v1/feed?after=earliest`)
    await once(reader, 'message')
    const told = once(reader, 'close')
    spawnSync('prlimit', ['--pid', String(hub.pid), '--fsize=1:unlimited'])
    const waiting = post(1).catch(() => null)
    client.publish('devices/f/telemetry', '{"ts":1700000000002,"n":2}', { qos: 1 }, () => {})
    await waitFor(() => hub.output().includes('storage fails'))
    expect(await hub.kill('SIGTERM')).toBe(0)
    expect((await told)[0]).toBe(1001)
    expect(hub.output()).toContain('what was not acknowledged is not stored')
    expect((await waiting)?.ok).not.toBe(true)
    const again = await startHubProcess({ folder: hub.folder })
    expect((await readWholeHistory(again, 'f'))[0]).toMatchObject({ values: { n: 0 } })
  })
})

const mosquitto = spawnSync('mosquitto_pub', ['--help']).error === undefined
if (!mosquitto && process.env.CI) throw new Error('CI must have mosquitto-clients')

describe.skipIf(!mosquitto)('a client that we did not write (skipped where there is no mosquitto_pub)', () => {
  test('pushes at every QoS and gets presence back', async () => {
    const hub = await startHubProcess()
    const port = String(hub.mqttPort)
    for (const qos of ['0', '1', '2']) {
      const { status } = spawnSync('mosquitto_pub', [
        '-p',
        port,
        '-q',
        qos,
        '-t',
        'devices/m/telemetry',
        '-m',
        `{"qos":${qos}}`,
      ])
      expect(status).toBe(0)
    }
    await waitFor(async () => (await readWholeHistory(hub, 'm')).length === 3)
    const subscriber = spawn('mosquitto_sub', ['-p', port, '-q', '1', '-t', 'devices/m/status', '-C', '1'])
    let text = ''
    subscriber.stdout.on('data', (chunk) => {
      text += chunk
    })
    await new Promise((resolve) => subscriber.once('exit', resolve))
    expect(JSON.parse(text)).toMatchObject({ state: 'offline' })
  })
})
