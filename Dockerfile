# One image for every part: `up` (the whole gateway, the default), or one service each as in docker-compose.yml.
# The TypeScript runs as it is, as in development and in the tests: there is no build that could differ from what was tested.

FROM node:24-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json ./
# Nothing of the production dependencies is compiled: level brings its binary along.
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund

FROM node:24-slim
ENV NODE_ENV=production
WORKDIR /app
# Volumes take owner and mode of the folder they are mounted on when they are first used.
RUN install -d -o node -g node -m 0700 /data /data/broker /data/services /data/services/broker /device
COPY --from=dependencies /app/node_modules node_modules
COPY . .
USER node
VOLUME /data
EXPOSE 8443 8883 9443
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["node", "bin/fleetgate.js", "status", "--data", "/data"]
ENTRYPOINT ["node"]
CMD ["bin/fleetgate.js", "up", "--data", "/data"]
