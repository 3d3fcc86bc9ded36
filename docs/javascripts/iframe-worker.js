// Browsers refuse web workers on pages opened from disk (file://); there the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      const scope = (this.scope = frame.contentWindow)
      scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      const script = scope.document.createElement("script")
      script.src = new URL(url, location.href)
      this.ready = new Promise((resolve) => (script.onload = resolve))
      scope.document.body.appendChild(script)
    }

    postMessage(data) {
      this.ready.then(() => this.scope.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
}
