"""The browser: a page over onnxruntime-web, the files it needs, and a server for it.

``page/`` is JavaScript whose types, written as JSDoc, TypeScript checks (``npm run check`` here and
in CI): what lies in the package is what runs, so nobody needs node to install, run or change it.
"""
