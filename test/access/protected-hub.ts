import { spawnSync } from 'node:child_process'
import { onTestFinished } from 'vitest'
import type { GivenCredential } from '../../src/access/credential.ts'
import {
  type HubProcess,
  type HubProcessOptions,
  mainFile,
  type OnFinished,
  startHubProcess,
  temporaryFolder,
  testSharing,
  waitFor,
} from '../hub-process.ts'

/** `telemetry-hub token|device …` on a folder; the secret that it prints. */
export function command(folder: string, ...args: string[]): string {
  return commandWith('', folder, ...args)
}

function commandWith(input: string, folder: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, [mainFile, ...args, '--data', folder], {
    input,
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(stderr)
  return stdout.trim()
}

export interface ProtectedHub extends HubProcess {
  admin: string
  /** A request with a token. */
  as(token: string, path: string, init?: RequestInit): Promise<Response>
  /** Makes a credential over HTTP; its secret. */
  create(given: GivenCredential): Promise<string>
  /** A command that changes credentials beside the running hub, which has heard of it when this resolves. */
  command(...args: string[]): Promise<string>
  commandWith(input: string, ...args: string[]): Promise<string>
}

/** A hub that has an administrator. */
export async function startProtectedHub(
  options: HubProcessOptions = {},
  onFinished: OnFinished = onTestFinished,
): Promise<ProtectedHub> {
  const folder = options.folder ?? (await temporaryFolder(onFinished))
  const admin = command(folder, 'token', 'create', '--name', 'admin', '--role', 'admin')
  const hub = await startHubProcess({ ...options, folder }, onFinished)
  const as: ProtectedHub['as'] = (token, path, init = {}) =>
    fetch(hub.http + path, { ...init, headers: { authorization: `Bearer ${token}`, ...init.headers } })
  async function heard(): Promise<string> {
    const { credentials } = (await (await as(admin, '/v1/credentials?limit=1000')).json()) as {
      credentials: { id: string }[]
    }
    return credentials.map(({ id }) => id).join()
  }
  const beside: ProtectedHub['commandWith'] = async (input, ...args) => {
    const before = await heard()
    const printed = commandWith(input, folder, ...args)
    await waitFor(async () => (await heard()) !== before)
    return printed
  }
  return {
    ...hub,
    admin,
    as,
    async create(given) {
      const headers = { 'content-type': 'application/json' }
      const answer = await as(admin, '/v1/credentials', { method: 'POST', headers, body: JSON.stringify(given) })
      const { secret, detail } = (await answer.json()) as { secret: string; detail?: string }
      if (!answer.ok) throw new Error(detail)
      return secret
    },
    command: (...args) => beside('', ...args),
    commandWith: beside,
  }
}

/** A test that shares such a hub with the others of its file, as long as they keep to credentials of their own. */
export const protectedTest = testSharing((onFinished) => startProtectedHub({}, onFinished))
