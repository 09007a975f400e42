CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE audit (
	hsm_id TEXT NOT NULL, 
	sequence INTEGER NOT NULL, 
	boot INTEGER NOT NULL, 
	time INTEGER NOT NULL, 
	opcode TEXT NOT NULL, 
	user TEXT NOT NULL, 
	role SMALLINT NOT NULL, 
	rv INTEGER NOT NULL, 
	handle INTEGER NOT NULL, 
	detail TEXT NOT NULL, 
	mac BLOB NOT NULL, 
	PRIMARY KEY (hsm_id, sequence)
);
CREATE TABLE cluster (
	cluster_id TEXT NOT NULL, 
	incarnation TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	purged INTEGER NOT NULL, 
	digest BLOB NOT NULL, 
	deleted SMALLINT NOT NULL, 
	mac BLOB NOT NULL, 
	PRIMARY KEY (cluster_id)
);
CREATE TABLE identity (
	id INTEGER NOT NULL, 
	mode TEXT NOT NULL, 
	limited_write SMALLINT NOT NULL, 
	"key" BLOB NOT NULL, 
	csr BLOB NOT NULL, 
	hsm_certificate BLOB NOT NULL, 
	aws_hardware BLOB NOT NULL, 
	manufacturer_hardware BLOB NOT NULL, 
	certificate BLOB NOT NULL, 
	trust_anchor BLOB NOT NULL, 
	version INTEGER NOT NULL, 
	deleted SMALLINT NOT NULL, 
	mac BLOB NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE leases (
	hsm_id TEXT NOT NULL, 
	renewal INTEGER NOT NULL, 
	PRIMARY KEY (hsm_id)
);
CREATE TABLE lockouts (
	hsm_id TEXT NOT NULL, 
	user_id INTEGER NOT NULL, 
	failures INTEGER NOT NULL, 
	mac BLOB NOT NULL, 
	PRIMARY KEY (hsm_id, user_id)
);
CREATE TABLE members (
	hsm_id TEXT NOT NULL, 
	socket TEXT NOT NULL, 
	certificate BLOB NOT NULL, 
	sealed BLOB NOT NULL, 
	version INTEGER NOT NULL, 
	deleted SMALLINT NOT NULL, 
	mac BLOB NOT NULL, 
	PRIMARY KEY (hsm_id)
);
CREATE TABLE mtls (
	id INTEGER NOT NULL, 
	enforced SMALLINT NOT NULL, 
	anchor_1 BLOB NOT NULL, 
	anchor_2 BLOB NOT NULL, 
	version INTEGER NOT NULL, 
	deleted SMALLINT NOT NULL, 
	mac BLOB NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE objects (
	handle INTEGER NOT NULL, 
	partition_id INTEGER NOT NULL, 
	owner_id INTEGER NOT NULL, 
	object_class INTEGER NOT NULL, 
	key_type INTEGER NOT NULL, 
	private SMALLINT NOT NULL, 
	attributes BLOB NOT NULL, 
	material BLOB NOT NULL, 
	version INTEGER NOT NULL, 
	deleted SMALLINT NOT NULL, 
	mac BLOB NOT NULL, 
	PRIMARY KEY (handle)
);
CREATE TABLE partitions (
	id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	deleted SMALLINT NOT NULL, 
	mac BLOB NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE shares (
	handle INTEGER NOT NULL, 
	user_id INTEGER NOT NULL, 
	version INTEGER NOT NULL, 
	deleted SMALLINT NOT NULL, 
	mac BLOB NOT NULL, 
	PRIMARY KEY (handle, user_id)
);
CREATE TABLE users (
	id INTEGER NOT NULL, 
	partition_id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	role SMALLINT NOT NULL, 
	salt BLOB NOT NULL, 
	password_hash BLOB NOT NULL, 
	password_version INTEGER NOT NULL, 
	version INTEGER NOT NULL, 
	deleted SMALLINT NOT NULL, 
	mac BLOB NOT NULL, 
	PRIMARY KEY (id)
);
CREATE INDEX ix_partitions_version ON partitions (version);
CREATE INDEX ix_users_version ON users (version);
CREATE INDEX ix_objects_version ON objects (version);
CREATE INDEX ix_shares_version ON shares (version);
CREATE INDEX ix_members_version ON members (version);
CREATE INDEX ix_identity_version ON identity (version);
CREATE INDEX ix_mtls_version ON mtls (version);
