import type { AssembledOptions } from './assembled-stack.ts'
import type { Context } from './bench.ts'
import { startHelper } from './children.ts'
import { createFolder, removeFolder } from './folders.ts'
import { startHub } from './hub-process.ts'
import { mosquittoProgram, startMosquitto } from './mosquitto.ts'

/** Something that takes MQTT, in processes of its own and with a fresh folder. */
export interface System {
  port: number
  /** Its processes, whose CPU time counts. */
  pids: number[]
  /** How many messages it has stored; `null` for one that stores nothing. */
  stored: (() => Promise<number>) | null
  stop(): Promise<void>
}

export type SystemName = 'hub' | 'mosquitto' | 'assembled'

export const systemLabels: Record<SystemName, string> = {
  hub: 'hub',
  mosquitto: 'Mosquitto, storing nothing',
  assembled: 'hand-assembled',
}

/** The systems of this machine, in the order in which a round takes them. */
export const availableSystems: SystemName[] = mosquittoProgram === null ? ['hub'] : ['hub', 'mosquitto', 'assembled']

const starters: Record<SystemName, (context: Context) => Promise<System>> = {
  async hub({ profiles }) {
    const hub = await startHub({ profiles })
    return { port: hub.mqttPort, pids: [hub.pid], stored: () => hub.metric('hub_readings_total'), stop: hub.stop }
  },
  async mosquitto() {
    const { port, pid, stop } = await startMosquitto()
    return { port, pids: [pid], stored: null, stop }
  },
  async assembled() {
    const { port, pid, stop } = await startMosquitto()
    const folder = createFolder('assembled')
    const subscriber = startHelper('assembled-stack', { port, folder } satisfies AssembledOptions)
    await subscriber.receive('ready')
    return {
      port,
      pids: [pid, subscriber.pid],
      async stored() {
        subscriber.send({})
        return (await subscriber.receive<{ stored: number }>('stored')).stored
      },
      async stop() {
        await subscriber.stop()
        await stop()
        removeFolder(folder)
      },
    }
  },
}

export function startSystem(name: SystemName, context: Context): Promise<System> {
  return starters[name](context)
}
