// Runs a program of the project with a Node that can run it, in a checkout as in the published package.
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { hasDependencies } from './install.js'
import { become, fail, findProjectNode, isCheckout, nodeMissing, root, runningIsEnough } from './node.js'

/** @param {string} folder the one with its main file */
export async function runProgram(folder) {
  if (isCheckout && !hasDependencies({ dev: false }))
    fail(`the dependencies of this checkout are not installed; run: npm ci (in ${root})`)
  if (runningIsEnough) {
    const main = isCheckout ? join(folder, 'main.ts') : join('dist', folder, 'main.js')
    await import(pathToFileURL(join(root, main)).href)
  } else {
    become(findProjectNode() ?? nodeMissing(), process.argv.slice(1))
  }
}
