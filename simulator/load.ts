import { deviceSeed, type Profile } from '../devices/profiles.ts'
import { Failure } from './failure.ts'
import { fingerprint, flatten, parsePayload } from './fingerprint.ts'
import type { Ledger } from './ledger.ts'
import type { Plan, Send } from './plan.ts'
import type { Scenario, Values } from './scenarios.ts'
import { type Render, renderPlain } from './template.ts'

/** What the fleet sends: at every moment at most one next message for each connection, and no queue behind it. */
export interface Load {
  /** When the connection's next message is due, in milliseconds since the start; Infinity while there is none. */
  nextDue(connection: number): number
  /** Takes that message; the next one moves up. */
  take(connection: number, nowMillis: number): Message
  /** The hub has taken over the responsibility for the message. */
  acknowledged(message: Message): void
  /** How many readings have fallen due by then, and whether those were the last. Asked with times that only grow. */
  due(nowMillis: number): { readings: number; all: boolean }
  /** Nothing is left to take, now and for ever. */
  finished(): boolean
}

export interface Message {
  topic: string
  payload: string | Buffer
  dueMillis: number
  device: number
  /** Its place among the device's readings, as the ledger counts them. */
  firstReading: number
  readings: number
  /** Meant for the quarantine. */
  bad: boolean
}

/** Devices that follow a profile. */
export function createProfileLoad(options: {
  plan: Plan
  scenario: Scenario
  profile: Profile
  seed: number
  startMillis: number
  names: string[]
  render: Render
  ledger: Ledger | undefined
}): Load {
  const { plan, scenario, profile, names, render, ledger } = options
  const topics = names.map(telemetryTopic)
  const seeds = names.map((_, device) => deviceSeed(options.seed, device))
  const next = cursors(plan)
  // A second walk over the plan, at the pace of the clock: how much is due does not depend on how much was sent.
  const dueCursors = cursors(plan)
  let dueReadings = 0

  return {
    nextDue: (connection) => next[connection]!.send()?.dueMillis ?? Infinity,

    take(connection) {
      const cursor = next[connection]!
      const { device, message, firstReading, readings, dueMillis } = cursor.send()!
      cursor.advance()
      const bad = scenario.bad?.(device, message) ?? false
      const texts: string[] = []
      for (let reading = firstReading; reading < firstReading + readings; reading++) {
        const planned = plan.tsMillis(device, reading)
        const ts = scenario.clock?.(planned, device, options.startMillis) ?? planned
        const sample = profile.sample(seeds[device]!, planned, reading)
        const values = scenario.values?.(sample, reading) ?? sample
        const text = render(names[device]!, ts, reading, values)
        ledger?.sent(device, reading, ts, fingerprintOf(render, text, values), bad)
        texts.push(text)
      }
      const payload = join(texts)
      return {
        topic: topics[device]!,
        payload: bad && scenario.spoil ? scenario.spoil(payload, message) : payload,
        dueMillis,
        device,
        firstReading,
        readings,
        bad,
      }
    },

    acknowledged: ({ device, firstReading, readings }) => ledger?.acknowledged(device, firstReading, readings),

    due(nowMillis) {
      for (const cursor of dueCursors) {
        for (let send = cursor.send(); send && send.dueMillis <= nowMillis; send = cursor.send()) {
          dueReadings += send.readings
          cursor.advance()
        }
      }
      return { readings: dueReadings, all: dueCursors.every((cursor) => cursor.send() === undefined) }
    },

    finished: () => next.every((cursor) => cursor.send() === undefined),
  }
}

export function telemetryTopic(device: string): string {
  return `devices/${device}/telemetry`
}

export function join(readings: string[]): string {
  return readings.length === 1 ? readings[0]! : `[${readings.join(',')}]`
}

/** Of what a hub should make of `text`; what is written plainly need not be parsed to know. */
export function fingerprintOf(render: Render, text: string, values: Values): number {
  if (render === renderPlain) return fingerprint(flatten(values))
  try {
    return fingerprint(parsePayload(text)!.values)
  } catch (error) {
    throw new Failure(1, `--payload-template made ${text.slice(0, 200)}, which is not JSON: --verify needs JSON`, error)
  }
}

/** One cursor a connection: it serves its devices in turns, in the order in which their messages fall due. */
function cursors(plan: Plan) {
  return Array.from({ length: plan.connections }, (_, connection) => {
    const devices = Math.ceil((plan.devices - connection) / plan.connections)
    // The connection's first device has the most sends of all.
    const turns = plan.sends(connection) * devices
    let turn = -1
    let send: Send | undefined
    function advance() {
      do {
        turn++
        send =
          turn < turns
            ? plan.send(connection + (turn % devices) * plan.connections, Math.floor(turn / devices))
            : undefined
      } while (send === undefined && turn < turns)
    }
    advance()
    return { send: () => send, advance }
  })
}
