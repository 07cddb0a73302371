# One image for every part: `up` (the whole gateway, the default), or one service each as in docker-compose.yml.
# The Node is the one that tests run with. The TypeScript runs as it is, as in development and in the tests: there is no build that could differ from what was tested.

FROM node:24.21.0-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json ./
# Nothing of the production dependencies is compiled: level brings its binary along.
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund

FROM node:24.21.0-slim
ENV NODE_ENV=production
WORKDIR /app
# Volumes take owner and mode of the folder they are mounted on when they are first used. 1000 is the image's user node, by number so
# that a cluster which refuses root can see that it is not.
RUN install -d -o 1000 -g 1000 -m 0700 /data /data/broker /data/services /data/services/broker /device
COPY --from=dependencies /app/node_modules node_modules
COPY . .
USER 1000:1000
VOLUME /data
EXPOSE 8443 8883 9443
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["node", "bin/fleetgate.js", "status", "--data", "/data"]
ENTRYPOINT ["node"]
CMD ["bin/fleetgate.js", "up", "--data", "/data"]
