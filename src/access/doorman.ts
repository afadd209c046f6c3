import type { Access } from './access.ts'
import type { Grant } from './grant.ts'
import { idOf } from './secret.ts'

/** What the broker tells of a client that wants to come in. */
interface Knock {
  peer: { address: string; names: readonly string[] }
  clientId: string
  username: string
  password: string
  gone(): boolean
}

// MQTT 3.1.1 §3.2.2.3
const serverUnavailable = 3
const badCredentials = 4

/** Lets MQTT clients in, as the broker asks for it: with a user name and password, a token as either, or a certificate. */
export function createDoorman(access: Access) {
  return {
    async admit({ peer, clientId, username, password, gone }: Knock) {
      const { address, names } = peer
      const grant = await access.enter({ address, username, secret: password, certified: names, gone })
      // Never a secret, however it was shown: names of devices are for everybody to see.
      const login = [username, clientId].find((text) => text !== '' && idOf(text) === null) ?? ''
      if (!('refused' in grant)) return visitor(grant, login)
      if (grant.refused === 'unknown') {
        return { reason: 'user name, password, token or certificate is wrong', returnCode: badCredentials } as const
      }
      const seconds = Math.ceil(grant.retryAfter / 1000)
      return { reason: `too many wrong passwords: try again in ${seconds} s`, returnCode: serverUnavailable } as const
    },
    /** Somebody who was in when the hub was killed, and what is allowed now; `null`: its credential is no longer good. */
    recall({ identity, device }: { identity: string; device: string }) {
      const grant = access.recall(identity)
      return grant && visitor(grant, device)
    },
  }
}

function visitor(grant: Grant, login: string) {
  const { identity, revocation, mayPublish, maySubscribe } = grant
  const maySpeakFor = (device: string): boolean => grant.has('write') && grant.covers(device)
  // A service says by its user name which of its devices it is.
  const device = grant.device || (maySpeakFor(login) ? login : '')
  return { identity, device, maySpeakFor, mayPublish, maySubscribe, revocation }
}
