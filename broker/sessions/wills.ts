import type { AedesPublishPacket, Client } from 'aedes'
import { type Visitor, visitorOf } from '../doorman.ts'
import { decodeHead, decodeMessage, encodeMessage, type Notes } from './notes.ts'
import type { QueuedPacket } from './outgoing.ts'

/** The will of a connection that ended with a former run. */
export interface Orphan {
  client: string
  /** Who speaks in it, as the doorman knows it. */
  owner: Pick<Visitor, 'identity' | 'device'>
  will: AedesPublishPacket
}

/** A client in the moment when Aedes tells of its will: it holds the packet until it has ended. */
export type Testator = Pick<Client, 'id'> & { closed?: boolean; will?: object | null }

/** What is said for connections that end without a DISCONNECT: MQTT 3.1.1 §3.1.2.5 */
export function createWills(notes: Notes) {
  const wills = new Map<string, { client: Testator; packet: QueuedPacket & { brokerId?: string } }>()
  const orphans: Orphan[] = []
  let disowned = 0

  return {
    /** Of connections that ended with a former run: each is to be published, or disowned. */
    orphans,
    restore(client: string, value: Uint8Array): void {
      const { identity, device } = decodeHead(value) as Orphan['owner']
      if (typeof identity !== 'string' || typeof device !== 'string') throw new Error('nobody has left this will')
      orphans.push({ client, owner: { identity, device }, will: decodeMessage(value) })
    },
    /** The orphan is published. */
    published(client: string): void {
      // The client may have come back and left another one.
      if (!wills.has(client)) notes.drop('w', client)
    },
    /** Its owner may not publish any more. */
    disown(client: string): void {
      disowned++
      this.published(client)
    },
    put(client: Testator, packet: QueuedPacket): void {
      // It has gone while it was let in: nobody would take its will out again.
      if (client.closed) return
      const { identity, device } = visitorOf(client as Client)
      wills.set(client.id, { client, packet })
      notes.put('w', client.id, encodeMessage(packet, { identity, device }))
    },
    /**
     * A connection of the client has let go of its will. Aedes does not say which one: a connection that has taken over
     * still holds its own, and that stays.
     */
    drop(id: string): QueuedPacket | undefined {
      const left = wills.get(id)
      if (!left || left.client.will === left.packet) return undefined
      wills.delete(id)
      notes.drop('w', id)
      return left.packet
    },
    get: (id: string) => wills.get(id)?.packet,
    values: () => Array.from(wills.values(), ({ packet }) => packet),
    get figures() {
      return { wills: wills.size, willsDisowned: disowned }
    },
  }
}
