import { signIn, signOut, whoAmI } from './api.ts'
import { find, write } from './page.ts'

/** What the hub asks who looks at it, when it has credentials. */
export function createSignIn(onSignedIn: () => void): { ask(): void } {
  const box = find('sign-in', HTMLElement)
  const token = find('token', HTMLInputElement)
  const problem = find('sign-in-problem', HTMLElement)
  const leave = find('sign-out', HTMLButtonElement)

  function show(asking: boolean): void {
    box.hidden = !asking
    document.body.dataset.asking = String(asking)
    if (asking) token.focus()
  }

  async function enter(): Promise<void> {
    try {
      await signIn(token.value.trim())
      token.value = ''
      write(problem, '')
      show(false)
      await look()
      onSignedIn()
    } catch (error) {
      write(problem, (error as Error).message)
      token.select()
    }
  }

  /** Where everybody may come in there is nothing to leave. */
  async function look(): Promise<void> {
    try {
      const { open, name } = await whoAmI()
      leave.hidden = open
      leave.title = name
    } catch {
      leave.hidden = true
    }
  }

  find('sign-in-form', HTMLFormElement).addEventListener('submit', (event) => {
    event.preventDefault()
    void enter()
  })
  leave.addEventListener('click', async () => {
    await signOut()
    location.reload()
  })
  void look()
  return { ask: () => show(true) }
}
