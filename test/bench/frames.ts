/*
 * MQTT 3.1.1 in bytes, as few of them as the benchmark speaks. Telemetry is encoded once for each device; afterwards
 * only the digits that differ are written into a copy.
 */

export type Qos = 0 | 1 | 2

export const packetType = { connack: 0x20, puback: 0x40, pubrec: 0x50, pubrel: 0x62, pubcomp: 0x70 } as const
/** Acknowledgements, and CONNACK, are of one size. */
export const acknowledgementBytes = 4
export const pingFrame = Buffer.of(0xc0, 0)
export const pingAnswerBytes = 2

export function connectFrame(clientId: string): Buffer {
  const cleanSession = 0x02
  // Keep-alive 0: an idle connection stays idle. [MQTT-3.1.2-23]
  return frame(0x10, [text('MQTT'), Buffer.of(4, cleanSession, 0, 0), text(clientId)])
}

export function subscribeFrame(filter: string, qos: Qos): Buffer {
  return frame(0x82, [Buffer.of(0, 1), text(filter), Buffer.of(qos)])
}
export const subscribeAnswerBytes = 5

export function publishFrame(topic: string, payload: string): Buffer {
  return frame(0x30, [text(topic), Buffer.from(payload)])
}

export interface TelemetryFrames {
  /** Every frame is as long as any other one. */
  length: number
  /** Writes the next frame of a device, with values and a time that it never had. */
  write(device: number, messageId: number, into: Buffer, at: number): void
}

export interface TelemetryOptions {
  devices: number
  qos: Qos
  /** Carry the microsecond of the sending as the metric `sent`, which a reader in another process can compare. */
  stamped: boolean
  clock(): number
}

/** A reading of three metrics: 97 bytes at QoS 1, as the figures in the targets were measured with. */
export function createTelemetryFrames({ devices, qos, stamped, clock }: TelemetryOptions): TelemetryFrames {
  const last = stamped ? '"sent":100000000}' : '"power":100}'
  const payload = Buffer.from(`{"ts":1000000000000,"temperature":21.00,"humidity":45.2,${last}`)
  const templates = Array.from({ length: devices }, (_, device) => {
    const topic = text(`devices/${deviceName(device)}/telemetry`)
    return frame(0x30 | (qos << 1), [topic, qos === 0 ? Buffer.alloc(0) : Buffer.alloc(2), payload])
  })
  const length = templates[0]?.length ?? 0
  const payloadAt = length - payload.length
  const timeAt = payloadAt + payload.indexOf('1000000000000')
  const decimalsAt = payloadAt + payload.indexOf('21.00') + 3
  const lastAt = payloadAt + payload.length - (stamped ? 10 : 4)
  // A device sends less than once a millisecond, so counting on from the start never runs ahead of the clock by much.
  const times = new Float64Array(devices).fill(Date.now())
  return {
    length,
    write(device, messageId, into, at) {
      ;(templates[device] as Buffer).copy(into, at)
      const time = (times[device] as number) + 1
      times[device] = time
      writeDigits(into, at + timeAt, 13, time)
      writeDigits(into, at + decimalsAt, 2, time % 100)
      // Nine digits of microseconds start with a 1, so that they are a number in JSON.
      if (stamped) writeDigits(into, at + lastAt, 9, 100_000_000 + (Math.round(clock() * 1000) % stampRange))
      else writeDigits(into, at + lastAt, 3, 100 + ((time * 7 + device) % 900))
      if (qos === 0) return
      into[at + payloadAt - 2] = messageId >> 8
      into[at + payloadAt - 1] = messageId & 0xff
    },
  }
}

/** Stamps repeat after so many microseconds, which is far above every latency. */
const stampRange = 100_000_000
const stamp = /"sent":(\d{9})/g

/** Milliseconds from the sending of each stamped reading in a text to its arrival, by the clock that stamped it. */
export function stampAges(text: string, arrived: number): number[] {
  return Array.from(text.matchAll(stamp), ([, digits]) => {
    const micros = (Math.round(arrived * 1000) % stampRange) - (Number(digits) - stampRange)
    return (micros < 0 ? micros + stampRange : micros) / 1000
  })
}

export function deviceName(device: number): string {
  return `d${String(device).padStart(4, '0')}`
}

function writeDigits(into: Buffer, at: number, count: number, value: number): void {
  // Two halves below 2^31, where division is one of integers.
  if (count > 7) {
    const upper = Math.floor(value / 1e7)
    writeDigits(into, at, count - 7, upper)
    at += count - 7
    value -= upper * 1e7
    count = 7
  }
  let rest = value | 0
  for (let place = at + count - 1; place >= at; place--) {
    const next = (rest / 10) | 0
    into[place] = 48 + rest - next * 10
    rest = next
  }
}

function text(content: string): Buffer {
  const bytes = Buffer.from(content)
  return Buffer.concat([Buffer.of(bytes.length >> 8, bytes.length & 0xff), bytes])
}

function frame(head: number, parts: Buffer[]): Buffer {
  const body = Buffer.concat(parts)
  const lengthBytes = body.length < 128 ? [body.length] : [(body.length & 0x7f) | 0x80, body.length >> 7]
  return Buffer.concat([Buffer.of(head, ...lengthBytes), body])
}
