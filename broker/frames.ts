import type { AedesPublishPacket } from 'aedes'

/* What subscribers are sent, as bytes: MQTT 3.1.1 §3.3 and §3.6. */

export interface Delivered {
  qos: 0 | 1 | 2
  retain: boolean
  dup: boolean
  /** At QoS 1 and 2. */
  messageId: number
}

export function publishFrame(packet: Pick<AedesPublishPacket, 'topic' | 'payload'>, how: Delivered): Buffer {
  const { qos, retain, dup, messageId } = how
  const payload = typeof packet.payload === 'string' ? Buffer.from(packet.payload) : packet.payload
  const topicBytes = Buffer.byteLength(packet.topic)
  let length = 2 + topicBytes + (qos > 0 ? 2 : 0) + payload.length
  const frame = Buffer.allocUnsafe(1 + lengthBytes(length) + length)
  frame[0] = 0x30 | (dup ? 8 : 0) | (qos << 1) | (retain ? 1 : 0)
  let at = 1
  for (; length > 127; length >>>= 7) frame[at++] = (length & 127) | 128
  frame[at++] = length
  at = frame.writeUInt16BE(topicBytes, at)
  at += frame.write(packet.topic, at)
  if (qos > 0) at = frame.writeUInt16BE(messageId, at)
  payload.copy(frame, at)
  return frame
}

export function pubrelFrame(messageId: number): Buffer {
  return Buffer.from([0x62, 2, messageId >> 8, messageId & 255])
}

function lengthBytes(length: number): number {
  if (length < 128) return 1
  if (length < 16_384) return 2
  return length < 2_097_152 ? 3 : 4
}
